//! Destinations that tell people and programs.

use std::time::Duration;

use stratavore_control::{Error, NewDestination, NotifyView};
use stratavore_core::NotificationId;
use stratavore_core::notify::Notification;
use stratavore_core::notify::rules::Quiet;
use stratavore_proto::v1;
use stratavore_proto::v1::notify_server::Notify;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, given};

fn destination(view: NotifyView) -> v1::NotifyDestination {
    let NotifyView { destination, backlog, definition } = view;
    let rules = definition.rules;
    let (quiet, zone, urgent) = match &rules.quiet {
        Some(quiet) => (Quiet::hours(quiet), quiet.zone.clone(), quiet.urgent.as_str().into()),
        None => Default::default(),
    };
    v1::NotifyDestination {
        to: definition.channel.shown(),
        name: destination.name,
        kind: destination.kind,
        enabled: destination.enabled,
        health: destination.health.as_str().into(),
        problem: destination.problem,
        told_at_us: destination.told_at.as_microsecond(),
        position: destination.position,
        dead: backlog.dead,
        rules: Some(v1::NotifyRules {
            events: rules.kinds,
            projects: rules.projects.iter().map(ToString::to_string).collect(),
            severity: rules.severity.as_str().into(),
            quiet,
            zone,
            urgent,
            group_ms: rules.group_ms,
            per_hour: rules.per_hour.unwrap_or(0),
        }),
        created_at_us: destination.created_at.as_microsecond(),
    }
}

fn notification(sent: Notification) -> v1::Notification {
    let delivered = sent.history.last().is_some_and(|attempt| attempt.delivered);
    // A test is never sent again, and so never waits and is never given up.
    let state = if sent.message.count == 0 && !delivered { "failed" } else { sent.state.as_str() };
    let history = sent.history.into_iter().map(|attempt| v1::NotifyAttempt {
        at_us: attempt.at.as_microsecond(),
        took_ms: attempt.took_ms,
        delivered: attempt.delivered,
        status: attempt.status.unwrap_or(0).into(),
        detail: attempt.detail,
        next_at_us: attempt.next_at.map_or(0, |at| at.as_microsecond()),
    });
    v1::Notification {
        id: sent.id.to_string(),
        state: state.into(),
        title: sent.message.title,
        severity: sent.message.severity.as_str().into(),
        count: sent.message.count,
        created_at_us: sent.created_at.as_microsecond(),
        attempts: sent.attempts,
        history: history.collect(),
        first: sent.message.first,
        last: sent.message.last,
    }
}

fn new_destination(request: v1::AddNotify) -> Result<NewDestination, Error> {
    let port = u16::try_from(request.port).map_err(|_| {
        let message = format!("{} is no port", request.port);
        Error::invalid(message, "give a number from 1 to 65535")
    })?;
    Ok(NewDestination {
        name: request.name,
        kind: request.kind,
        url: request.url,
        secret: request.secret,
        token: request.token,
        chat: request.chat,
        topic: request.topic,
        host: request.host,
        port,
        tls: request.tls,
        user: request.user,
        password: request.password,
        from: request.from,
        to: request.to,
        events: request.events,
        projects: request.projects,
        severity: request.severity,
        quiet: request.quiet,
        zone: request.zone,
        urgent: request.urgent,
        group: request.group_ms.map(Duration::from_millis),
        per_hour: request.per_hour,
    })
}

#[tonic::async_trait]
impl Notify for Api {
    async fn list(&self, _: Request<v1::ListNotify>) -> Result<Response<v1::NotifyList>, Status> {
        let found = self.control.notify_list().await.map_err(status)?;
        let destinations = found.into_iter().map(destination).collect();
        Ok(Response::new(v1::NotifyList { destinations }))
    }

    async fn show(
        &self,
        request: Request<v1::ShowNotify>,
    ) -> Result<Response<v1::NotifyHistory>, Status> {
        let v1::ShowNotify { name, limit } = request.into_inner();
        let view = self.control.notify_get(&name).await.map_err(status)?;
        let sent = self.control.notify_history(&name, limit).await.map_err(status)?;
        Ok(Response::new(v1::NotifyHistory {
            destination: Some(destination(view)),
            notifications: sent.into_iter().map(notification).collect(),
        }))
    }

    async fn add(
        &self,
        request: Request<v1::AddNotify>,
    ) -> Result<Response<v1::NotifyDestination>, Status> {
        let caller = caller(&request)?;
        let new = new_destination(request.into_inner()).map_err(status)?;
        let (control, by, on) = (self.control.clone(), caller.clone(), new.name.clone());
        let added = async move { control.notify_add(&caller, new).await };
        let view = self.control.decided(&by, "notify.add", &on, added).await.map_err(status)?;
        Ok(Response::new(destination(view)))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveNotify>,
    ) -> Result<Response<v1::RemovedNotify>, Status> {
        let caller = caller(&request)?;
        let (control, name) = (self.control.clone(), request.into_inner().name);
        let (by, on) = (caller.clone(), name.clone());
        let removed = async move { control.notify_remove(&caller, &name).await };
        self.control.decided(&by, "notify.remove", &on, removed).await.map_err(status)?;
        Ok(Response::new(v1::RemovedNotify {}))
    }

    async fn switch(
        &self,
        request: Request<v1::SwitchNotify>,
    ) -> Result<Response<v1::NotifyDestination>, Status> {
        let caller = caller(&request)?;
        let v1::SwitchNotify { name, enabled } = request.into_inner();
        let (control, by, on) = (self.control.clone(), caller.clone(), name.clone());
        let switched = async move { control.notify_switch(&caller, &name, enabled).await };
        let view =
            self.control.decided(&by, "notify.switch", &on, switched).await.map_err(status)?;
        Ok(Response::new(destination(view)))
    }

    async fn test(
        &self,
        request: Request<v1::TestNotify>,
    ) -> Result<Response<v1::Notification>, Status> {
        let caller = caller(&request)?;
        let (control, name) = (self.control.clone(), request.into_inner().name);
        let (by, on) = (caller.clone(), name.clone());
        let tested = async move { control.notify_test(&caller, &name).await };
        let sent = self.control.decided(&by, "notify.test", &on, tested).await.map_err(status)?;
        Ok(Response::new(notification(sent)))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryNotify>,
    ) -> Result<Response<v1::RetryNotifyReply>, Status> {
        let caller = caller(&request)?;
        let v1::RetryNotify { name, id } = request.into_inner();
        let id: Option<NotificationId> = given(&id).map(str::parse).transpose().map_err(
            |error: stratavore_core::id::IdError| {
                let hint = format!("see which there are: stratavore notify show {name}");
                status(Error::invalid(error.to_string(), hint))
            },
        )?;
        let (control, by, on) = (self.control.clone(), caller.clone(), name.clone());
        let asked = async move { control.notify_retry(&caller, &name, id).await };
        let count = self.control.decided(&by, "notify.retry", &on, asked).await.map_err(status)?;
        Ok(Response::new(v1::RetryNotifyReply { count }))
    }
}
