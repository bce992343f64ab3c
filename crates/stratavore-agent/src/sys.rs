//! The few system calls that no library in use offers, and nothing else that is unsafe but where
//! an open file is adopted by its number.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Signal;

#[expect(unsafe_code, reason = "declarations of the C library, which the standard library links")]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn fork() -> c_int;
    fn execve(
        program: *const c_char,
        argv: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// As large as the C library's; the kernel has one bit a signal.
type SignalSet = [u64; 16];

/// Calls that are as new as these have the same number on every architecture.
const CLONE3: c_long = 435;
const CLOSE_RANGE: c_long = 436;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLOSE_RANGE_CLOEXEC: c_int = 4;
const FIRST_FD: c_int = 3;
const SIG_SETMASK: c_int = 2;
const SIG_DFL: usize = 0;
const LAST_SIGNAL: c_int = 64;

/// The kernel's `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Who one is after a fork.
pub(crate) enum Forked {
    Child,
    Parent(u32),
}

/// Forks, the child being born in `cgroup` if one is given.
///
/// The process must have one thread: then the child has a consistent copy of all, and may do what
/// it likes with it.
pub(crate) fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let pid = match cgroup {
        None => {
            // SAFETY: one thread; see above.
            #[expect(unsafe_code, reason = "no library in use offers fork")]
            let pid = unsafe { fork() };
            c_long::from(pid)
        }
        Some(cgroup) => {
            let args = CloneArgs {
                flags: CLONE_INTO_CGROUP,
                exit_signal: Signal::CHILD.as_raw() as u64,
                cgroup: cgroup.as_raw_fd() as u64,
                ..CloneArgs::default()
            };
            // SAFETY: without CLONE_VM this is a fork: the child runs on a copy of our memory and
            // stack. The kernel reads `args`, which lives until the call returns.
            #[expect(unsafe_code, reason = "no library in use offers clone3")]
            unsafe {
                syscall(CLONE3, &raw const args, size_of::<CloneArgs>())
            }
        }
    };
    match u32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) => Ok(Forked::Parent(pid)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once, without running anything of the parent that it is a copy of.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: needs nothing and touches nothing.
    #[expect(unsafe_code, reason = "exit handlers of the parent must not run in the child")]
    unsafe {
        _exit(status)
    }
}

/// Strings as exec takes them: addresses, and a null pointer at the end.
pub(crate) struct Strings<'a> {
    pointers: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CString>,
}

impl<'a> Strings<'a> {
    pub(crate) fn new(strings: &'a [CString]) -> Self {
        let pointers =
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, strings: std::marker::PhantomData }
    }
}

/// Replaces the program of this process. Returns only if that fails, with nothing changed; unlike
/// the standard library's, it touches no signal and asks no shell. Allocates nothing.
pub(crate) fn exec(program: &CStr, argv: &Strings<'_>, environment: &Strings<'_>) -> Errno {
    // SAFETY: both arrays end in a null pointer, and their strings live as long as they do.
    #[expect(unsafe_code, reason = "the standard library's exec does more than is wanted")]
    unsafe {
        execve(program.as_ptr(), argv.pointers.as_ptr(), environment.pointers.as_ptr());
    }
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Closes every file but the standard streams.
///
/// To be called before anything is open that belongs to anybody.
pub(crate) fn close_inherited() {
    // SAFETY: by the rule above no open file is in use.
    #[expect(unsafe_code, reason = "no library in use offers close_range")]
    unsafe {
        syscall(CLOSE_RANGE, FIRST_FD, c_int::MAX, 0);
    }
}

/// Has every file but the standard streams closed at exec. Allocates nothing.
pub(crate) fn close_at_exec() {
    // SAFETY: it closes nothing now.
    #[expect(unsafe_code, reason = "no library in use offers close_range")]
    unsafe {
        syscall(CLOSE_RANGE, FIRST_FD, c_int::MAX, CLOSE_RANGE_CLOEXEC);
    }
}

/// Sets every signal to what the system does with it by default. Allocates nothing.
pub(crate) fn reset_signals() {
    for number in 1..=LAST_SIGNAL {
        // SAFETY: the default action needs no handler. Where it cannot be set (9, 19, and two of
        // the C library's own) the call is refused and changes nothing.
        #[expect(unsafe_code, reason = "no library in use resets signals")]
        unsafe {
            signal(number, SIG_DFL);
        }
    }
}

/// Holds all signals back, or lets all through. Allocates nothing.
pub(crate) fn mask_signals(held: bool) {
    let mask: SignalSet = [if held { u64::MAX } else { 0 }; 16];
    // SAFETY: the kernel reads one set and writes none.
    #[expect(unsafe_code, reason = "no library in use sets the signal mask")]
    unsafe {
        sigprocmask(SIG_SETMASK, &mask, std::ptr::null_mut());
    }
}

/// Takes over an open file that came through exec, by its number.
///
/// Each number may be taken over once, and only if the program before said that it is ours.
pub(crate) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: by the rule above nobody else owns it.
    #[expect(unsafe_code, reason = "an open file that came through exec has only a number")]
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}
