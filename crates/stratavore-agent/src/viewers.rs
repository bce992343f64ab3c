//! Who is attached, who of them writes, and how large the terminal is for them.
//!
//! Invariant: at most one viewer writes, and never one that is read-only.

use stratavore_proto::runner_dir::Resize;

use crate::screen::Size;

/// One attached viewer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Viewer {
    id: u64,
    who: String,
    /// Only watches, for as long as it stays.
    read_only: bool,
    /// Has let go of writing, and watches until it takes it back.
    yielded: bool,
    size: Option<Size>,
}

/// All viewers, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Viewers {
    all: Vec<Viewer>,
    writer: Option<u64>,
    last: u64,
}

impl Viewers {
    /// A new viewer. It writes if nobody does, or if it steals that.
    pub(crate) fn attach(
        &mut self,
        who: String,
        read_only: bool,
        steal: bool,
        size: Option<Size>,
    ) -> u64 {
        self.last += 1;
        let id = self.last;
        self.all.push(Viewer { id, who, read_only, yielded: false, size });
        if !read_only && (steal || self.writer.is_none()) {
            self.writer = Some(id);
        }
        id
    }

    /// The viewer takes writing over from whoever has it. A read-only one stays so.
    pub(crate) fn steal(&mut self, id: u64) {
        if let Some(viewer) = self.get(id)
            && !viewer.read_only
        {
            viewer.yielded = false;
            self.writer = Some(id);
        }
    }

    /// The viewer only watches from now on.
    pub(crate) fn let_go(&mut self, id: u64) {
        if let Some(viewer) = self.get(id) {
            viewer.yielded = true;
            self.pass_on(id);
        }
    }

    pub(crate) fn leave(&mut self, id: u64) {
        self.all.retain(|viewer| viewer.id != id);
        self.pass_on(id);
    }

    pub(crate) fn resize(&mut self, id: u64, size: Option<Size>) {
        if let Some(viewer) = self.get(id) {
            viewer.size = size.or(viewer.size);
        }
    }

    fn get(&mut self, id: u64) -> Option<&mut Viewer> {
        self.all.iter_mut().find(|viewer| viewer.id == id)
    }

    /// If `id` was the writer, the one who waits longest is it now.
    fn pass_on(&mut self, id: u64) {
        if self.writer == Some(id) {
            self.writer = self.all.iter().find(|viewer| viewer.can_write()).map(|viewer| viewer.id);
        }
    }

    pub(crate) fn is_writer(&self, id: u64) -> bool {
        self.writer == Some(id)
    }

    /// The writer's id, and who that is.
    pub(crate) fn writer(&self) -> Option<(u64, &str)> {
        let writer = self.writer?;
        self.all
            .iter()
            .find(|viewer| viewer.id == writer)
            .map(|viewer| (viewer.id, viewer.who.as_str()))
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The size that the terminal is to have; `None` if nobody who can write has one.
    pub(crate) fn size(&self, policy: Resize) -> Option<Size> {
        let writers = self.all.iter().filter(|viewer| viewer.can_write());
        match policy {
            Resize::Smallest => writers.filter_map(|viewer| viewer.size).reduce(|a, b| Size {
                columns: a.columns.min(b.columns),
                rows: a.rows.min(b.rows),
            }),
            Resize::Latest => {
                writers.filter(|viewer| self.is_writer(viewer.id)).find_map(|viewer| viewer.size)
            }
        }
    }
}

impl Viewer {
    fn can_write(&self) -> bool {
        !self.read_only && !self.yielded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(columns: u32, rows: u32) -> Option<Size> {
        Size::new(columns, rows)
    }

    #[test]
    fn the_first_one_writes_and_the_next_one_inherits_it() {
        let mut viewers = Viewers::default();
        let watcher = viewers.attach("watcher".into(), true, false, size(10, 10));
        assert_eq!(viewers.writer(), None);
        let first = viewers.attach("first".into(), false, false, size(80, 24));
        let second = viewers.attach("second".into(), false, false, size(100, 20));
        assert_eq!(viewers.writer(), Some((first, "first")));
        assert_eq!(viewers.size(Resize::Smallest), size(80, 20));
        viewers.steal(second);
        assert!(viewers.is_writer(second));
        assert_eq!(viewers.size(Resize::Latest), size(100, 20));
        viewers.steal(watcher);
        assert!(viewers.is_writer(second), "a read-only viewer never writes");
        viewers.let_go(second);
        assert!(viewers.is_writer(first));
        assert_eq!(viewers.size(Resize::Smallest), size(80, 24), "who only watches does not count");
        viewers.leave(first);
        assert_eq!(viewers.writer(), None, "who let go is not made to write again");
        assert_eq!(viewers.size(Resize::Smallest), None);
        viewers.steal(second);
        assert!(viewers.is_writer(second));
        assert_eq!(viewers.count(), 2);
    }

    #[test]
    fn a_thief_is_the_writer_at_once() {
        let mut viewers = Viewers::default();
        let first = viewers.attach("first".into(), false, false, None);
        let thief = viewers.attach("thief".into(), false, true, None);
        assert!(viewers.is_writer(thief));
        viewers.leave(thief);
        assert!(viewers.is_writer(first));
    }

    proptest! {
        #[test]
        fn somebody_writes_if_anybody_can(deeds in proptest::collection::vec((0u8..5, 0u64..6, any::<bool>()), 0..60)) {
            let mut viewers = Viewers::default();
            for (deed, id, flag) in deeds {
                match deed {
                    0 => { viewers.attach(String::new(), flag, !flag, size(80, 24)); }
                    1 => viewers.steal(id),
                    2 => viewers.let_go(id),
                    3 => viewers.leave(id),
                    _ => viewers.resize(id, size(40, 10)),
                }
                let can: Vec<u64> = viewers.all.iter().filter(|viewer| viewer.can_write()).map(|viewer| viewer.id).collect();
                match viewers.writer() {
                    Some((id, _)) => prop_assert!(can.contains(&id)),
                    None => prop_assert!(can.is_empty()),
                }
            }
        }
    }
}
