//! One viewer: shown the screen, then all that comes; may write if it is the writer.
//!
//! What a viewer is told is found by comparing what it knows with what is so. Nothing is queued
//! for it, so a slow one costs nothing and misses nothing but output, which it is told.

use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::FrameError;
use stratavore_proto::v1::{
    Attach, Ended, FromAgentSocket, Lagged, Output, Resize, ToAgentSocket, Writer,
    from_agent_socket::Kind, to_agent_socket,
};

use crate::runner::Runner;
use crate::screen::Size;
use crate::socket::{Connection, frame, screen};
use crate::terminal::Next;
use crate::visits::{Stay, Visitor};

/// The most output in one frame.
const CHUNK: usize = 32 * 1024;
/// So many viewers take all that is printed, however much it is.
const FEW: usize = 4;
/// How long each viewer of more than that waits after a chunk, for each of them that there is.
const PAUSE: Duration = Duration::from_millis(4);
/// The longest name of a viewer.
const WHO_MAX: usize = 200;

/// A viewer's place among the others; it leaves when this is dropped.
struct Place {
    runner: Rc<Runner>,
    id: u64,
    stay: Stay,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.runner.viewers.borrow_mut().leave(self.id);
        self.runner.terminal.borrow_mut().unwatch();
        self.runner.resized.notify_one();
        self.runner.changed.send_replace(());
    }
}

/// Serves one viewer until it leaves or the runner has ended.
pub(crate) async fn run(
    runner: &Rc<Runner>,
    connection: Connection,
    visitor: Visitor,
    who: String,
    wish: Attach,
    welcome: impl Fn(bool) -> FromAgentSocket,
) -> Result<(), FrameError> {
    let who = who.chars().filter(|c| !c.is_control()).take(WHO_MAX).collect();
    let size = Size::new(wish.columns, wish.rows);
    let stay = runner.stays(&visitor, !wish.read_only);
    let id = runner.viewers.borrow_mut().attach(who, wish.read_only, wish.steal, size);
    runner.terminal.borrow_mut().watch();
    let place = Place { runner: Rc::clone(runner), id, stay };
    runner.changed.send_replace(());
    // At once if it may, so that the first picture has the right size.
    if runner.fit_size().is_err() {
        runner.resized.notify_one();
    }
    let (mut to_viewer, from_viewer) = connection.split();
    let is_writer = runner.viewers.borrow().is_writer(id);
    // It leaves with the first picture, as one thing to wake up for.
    to_viewer.feed(welcome(is_writer)).await?;
    tokio::select! {
        shown = show(&place, to_viewer) => shown,
        heard = hear(&place, from_viewer) => heard,
    }
}

/// Does what the viewer says.
async fn hear(place: &Place, mut frames: SplitStream<Connection>) -> Result<(), FrameError> {
    let runner = &place.runner;
    while let Some(frame) = frames.next().await {
        let ToAgentSocket { kind } = frame?;
        match kind {
            Some(to_agent_socket::Kind::Input(bytes)) => {
                if runner.viewers.borrow().is_writer(place.id) {
                    let _turn = runner.input.turn().await;
                    place.stay.typed(bytes.len());
                    // What a program does not read is dropped in the end; the screen shows that.
                    let _typed = runner.input.push(&bytes).await;
                }
                continue;
            }
            Some(to_agent_socket::Kind::Resize(Resize { columns, rows })) => {
                runner.viewers.borrow_mut().resize(place.id, Size::new(columns, rows));
            }
            Some(to_agent_socket::Kind::Steal(_)) => runner.viewers.borrow_mut().steal(place.id),
            Some(to_agent_socket::Kind::Yield(_)) => runner.viewers.borrow_mut().let_go(place.id),
            Some(to_agent_socket::Kind::Hello(_) | to_agent_socket::Kind::Pong(_)) | None => {}
        }
        runner.resized.notify_one();
        runner.changed.send_replace(());
    }
    Ok(())
}

/// What a viewer was told last.
#[derive(Default)]
struct Known {
    /// The next byte that it gets; `None` before its first picture.
    offset: Option<u64>,
    size: Option<Size>,
    writer: Option<Writer>,
    /// The picture that comes after it was told what it has missed.
    picture: Option<FromAgentSocket>,
}

/// Shows the viewer what changes.
///
/// A crowd of viewers would take the time in which a flood of output is read and recorded. So each
/// of them pauses after so much of it, the longer the more they are. Who has fallen behind by then
/// gets the screen as it is.
async fn show(
    place: &Place,
    mut to_viewer: SplitSink<Connection, FromAgentSocket>,
) -> Result<(), FrameError> {
    let runner = &place.runner;
    let mut changed = runner.changed.subscribe();
    let mut known = Known::default();
    let mut shown = 0;
    loop {
        changed.mark_unchanged();
        while let Some(news) = news(place, &mut known) {
            if let Some(Kind::Output(output)) = &news.kind {
                shown += output.data.len();
            }
            to_viewer.feed(news).await?;
        }
        if let Some(exit) = runner.exit() {
            let cause = exit.cause.to_string();
            return to_viewer.send(frame(Kind::Ended(Ended { cause }))).await;
        }
        to_viewer.flush().await?;
        if shown >= CHUNK {
            shown = 0;
            let viewers = runner.viewers.borrow().count();
            tokio::time::sleep(pause(viewers)).await;
        }
        if changed.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// How long each of so many viewers waits after a chunk.
fn pause(viewers: usize) -> Duration {
    match viewers {
        ..=FEW => Duration::ZERO,
        many => PAUSE * u32::try_from(many).unwrap_or(u32::MAX),
    }
}

/// The next thing that the viewer does not know.
fn news(place: &Place, known: &mut Known) -> Option<FromAgentSocket> {
    if let Some(picture) = known.picture.take() {
        return Some(picture);
    }
    let runner = &place.runner;
    let mut terminal = runner.terminal.borrow_mut();
    let from = known.offset;
    match from.map(|offset| (offset, terminal.after(offset, CHUNK))) {
        Some((offset, Next::Output(data))) => {
            known.offset = Some(offset + data.len() as u64);
            return Some(frame(Kind::Output(Output { offset, data })));
        }
        Some((_, Next::UpToDate)) => {}
        Some((_, Next::Lost)) | None => {
            let (to, picture) = terminal.picture();
            known.offset = Some(to);
            known.size = Some(picture.size);
            let picture = screen(to, picture);
            let Some(from) = from else { return Some(picture) };
            known.picture = Some(picture);
            return Some(frame(Kind::Lagged(Lagged { from, to })));
        }
    }
    let size = terminal.size();
    if known.size != Some(size) {
        known.size = Some(size);
        let size = Resize { columns: size.columns.into(), rows: size.rows.into() };
        return Some(frame(Kind::Size(size)));
    }
    let viewers = runner.viewers.borrow();
    let (id, who) = viewers.writer().map_or((None, ""), |(id, who)| (Some(id), who));
    let viewers = u32::try_from(viewers.count()).unwrap_or(u32::MAX);
    let writer = Writer { who: who.into(), you: id == Some(place.id), viewers };
    if known.writer.as_ref() != Some(&writer) {
        known.writer = Some(writer.clone());
        return Some(frame(Kind::Writer(writer)));
    }
    None
}
