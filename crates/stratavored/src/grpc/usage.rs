//! What was used.

use stratavore_control::{Error, NamedGroup, UsageQuery, WindowView};
use stratavore_core::Timestamp;
use stratavore_core::usage::{LedgerRow, UsageSums};
use stratavore_core::window::Window;
use stratavore_proto::v1;
use stratavore_proto::v1::ledger_server::Ledger;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, given};

#[tonic::async_trait]
impl Ledger for Api {
    async fn report(
        &self,
        request: Request<v1::ReportUsage>,
    ) -> Result<Response<v1::UsageReport>, Status> {
        let caller = caller(&request)?;
        let v1::ReportUsage { by, filter, zone, limit } = request.into_inner();
        let query = query(filter).map_err(status)?;
        let (control, asks) = (self.control.clone(), caller.clone());
        let report = async move { control.usage_report(&asks, &by, &query, &zone, limit).await };
        let report =
            self.control.decided(&caller, "ledger.report", "", report).await.map_err(status)?;
        Ok(Response::new(v1::UsageReport {
            by: report.by.as_str().into(),
            groups: report.groups.into_iter().map(group).collect(),
            others: Some(sums(report.others)),
            more: report.more as u64,
            total: Some(sums(report.total)),
        }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainUsage>,
    ) -> Result<Response<v1::UsageExplained>, Status> {
        let caller = caller(&request)?;
        let v1::ExplainUsage { about, filter, limit, page } = request.into_inner();
        let query = query(filter).map_err(status)?;
        let (control, asks, on) = (self.control.clone(), caller.clone(), about.clone());
        let explained =
            async move { control.usage_explain(&asks, &about, &query, limit, &page).await };
        let explained = self
            .control
            .decided(&caller, "ledger.explain", &on, explained)
            .await
            .map_err(status)?;
        let not_covered = explained.not_covered.into_iter().map(|(assistant, what)| {
            let what = what.iter().map(|text| (*text).into()).collect();
            v1::NotCovered { assistant, what }
        });
        Ok(Response::new(v1::UsageExplained {
            noun: explained.noun.into(),
            id: explained.id,
            label: explained.label,
            rows: explained.rows.into_iter().map(row).collect(),
            total: Some(sums(explained.total)),
            not_covered: not_covered.collect(),
            next: explained.next.unwrap_or_default(),
        }))
    }

    async fn windows(
        &self,
        request: Request<v1::ListWindows>,
    ) -> Result<Response<v1::WindowList>, Status> {
        let caller = caller(&request)?;
        let assistant = request.into_inner().assistant;
        let windows = self.control.window_list(&caller, given(&assistant)).await.map_err(status)?;
        Ok(Response::new(v1::WindowList { windows: windows.into_iter().map(window).collect() }))
    }
}

fn window(view: WindowView) -> v1::Window {
    let WindowView { window: Window { node, assistant, runner, told }, host, is_over } = view;
    v1::Window {
        assistant: assistant.into(),
        node_id: node.to_string(),
        host,
        name: told.name,
        used_percent: told.used_percent,
        minutes: told.window_minutes.unwrap_or(0),
        resets_at_us: told.resets_at.map_or(0, |at| at.as_microsecond()),
        at_us: told.at.as_microsecond(),
        runner_id: runner.to_string(),
        over: is_over,
    }
}

fn query(filter: Option<v1::UsageFilter>) -> Result<UsageQuery, Error> {
    let v1::UsageFilter { project, session, runner, assistant, model, since_us, until_us } =
        filter.unwrap_or_default();
    let time = |us: i64| match us {
        0 => Ok(None),
        us => Timestamp::from_microsecond(us).map(Some).map_err(|_| {
            Error::invalid(format!("{us} is no time"), "give microseconds since 1970")
        }),
    };
    let (since, until) = (time(since_us)?, time(until_us)?);
    Ok(UsageQuery { project, session, runner, assistant, model, since, until })
}

pub(super) fn sums(sums: UsageSums) -> v1::UsageSums {
    v1::UsageSums {
        input: sums.tokens.input,
        output: sums.tokens.output,
        cache_read: sums.tokens.cache_read,
        cache_write: sums.tokens.cache_write,
        cache_write_1h: sums.tokens.cache_write_1h,
        reasoning: sums.tokens.reasoning,
        cost: sums.cost,
        reported: sums.reported,
        messages: sums.messages,
        unpriced: sums.unpriced,
        reporting: sums.reporting,
        estimated: sums.estimated,
        lost: sums.lost,
    }
}

pub(super) fn group(group: NamedGroup) -> v1::UsageGroup {
    v1::UsageGroup { of: group.of, label: group.label, sums: Some(sums(group.sums)) }
}

fn row(row: LedgerRow) -> v1::UsageRow {
    let figures = sums(row.sums());
    let LedgerRow { assistant, record, belongs, price, recorded_at } = row;
    let id = |id: Option<String>| id.unwrap_or_default();
    let (cost, version) = price.map(|price| (price.cost, price.version)).unzip();
    v1::UsageRow {
        assistant: assistant.into(),
        key: record.key,
        session_id: id(belongs.session.map(|id| id.to_string())),
        external_session: record.session,
        runner_id: id(belongs.runner.map(|id| id.to_string())),
        project_id: id(belongs.project.map(|id| id.to_string())),
        request_id: record.request_id.unwrap_or_default(),
        message_id: record.message_id.unwrap_or_default(),
        model: record.model,
        purpose: record.purpose.as_str().into(),
        sums: Some(figures),
        cost,
        price_version: version.unwrap_or_default(),
        reported: record.reported_cost,
        quality: record.quality.as_str().into(),
        at_us: record.at.as_microsecond(),
        file: record.place.file,
        offset: record.place.offset,
        recorded_at_us: recorded_at.as_microsecond(),
    }
}
