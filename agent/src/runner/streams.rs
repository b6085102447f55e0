//! The descriptors of a walk on its runner: pipes, and the tasks that carry their bytes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use worknode::door::{DATA_BYTES_MAX, WINDOW_BYTES};
use worknode::spec::{FdKind, FdSpec};

use crate::link::Link;
use crate::link::frame::{Frame, Kind};

/// Input asked for at once: what the process may find in its pipe.
const INPUT_BYTES: u32 = 64 * 1024;

/// Where descriptors go: pairs of the process's number and the index of what is passed.
pub(super) type Places = Vec<(u32, u32)>;

/// The streams of one walk.
#[derive(Debug)]
pub(super) struct Streams {
    outputs: RefCell<Vec<JoinHandle<()>>>,
    credits: HashMap<u8, Rc<Credit>>,
    inputs: RefCell<HashMap<u8, mpsc::UnboundedSender<Vec<u8>>>>,
}

/// Bytes that may still be sent.
#[derive(Debug)]
struct Credit {
    bytes: Cell<usize>,
    more: Notify,
    broken: Cell<bool>,
}

impl Streams {
    /// Makes what the walk finds in its descriptors.
    pub(super) fn open(
        link: &Rc<Link>,
        stream: u32,
        fds: &[FdSpec],
    ) -> anyhow::Result<(Self, Places, Vec<OwnedFd>)> {
        let mut streams = Self {
            outputs: RefCell::default(),
            credits: HashMap::new(),
            inputs: RefCell::default(),
        };
        let (mut places, mut passed) = (Vec::new(), Vec::new());
        for fd in fds {
            let number = u8::try_from(fd.fd)?;
            let end = match &fd.kind {
                FdKind::Null { flags } => OwnedFd::from(null(*flags)?),
                FdKind::Output => streams.output(link, stream, number)?,
                FdKind::Input | FdKind::Terminal => streams.input(link, stream, number)?,
                FdKind::File { .. } => continue,
                FdKind::Same { fd: other } => {
                    let index = places.iter().find(|&&(place, _)| place == *other);
                    let index = index.map(|&(_, index)| index);
                    places.extend(index.map(|index| (fd.fd, index)));
                    continue;
                }
            };
            places.push((fd.fd, u32::try_from(passed.len())?));
            passed.push(end);
        }
        Ok((streams, places, passed))
    }

    /// Takes in a frame of the origin.
    pub(super) fn take(&self, frame: Frame) {
        let Some((&fd, rest)) = frame.payload.split_first() else { return };
        match frame.kind {
            Kind::Data => {
                if let Some(tx) = self.inputs.borrow().get(&fd) {
                    let _ = tx.send(rest.to_vec());
                }
            }
            Kind::Eof => {
                self.inputs.borrow_mut().remove(&fd);
            }
            Kind::Credit => {
                if let (Some(credit), Ok(bytes)) = (self.credits.get(&fd), rest.try_into()) {
                    let bytes = u32::from_le_bytes(bytes) as usize;
                    credit.bytes.set(credit.bytes.get() + bytes);
                    credit.more.notify_one();
                }
            }
            Kind::Broken => {
                if let Some(credit) = self.credits.get(&fd) {
                    credit.broken.set(true);
                    credit.more.notify_one();
                }
            }
            _ => {}
        }
    }

    /// Ends when all output is on its way.
    pub(super) async fn finish(&self) {
        let outputs = self.outputs.take();
        for output in outputs {
            let _ = output.await;
        }
    }

    fn output(&mut self, link: &Rc<Link>, stream: u32, fd: u8) -> anyhow::Result<OwnedFd> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let receiver = Receiver::from_owned_fd(ours)?;
        let credit = Rc::new(Credit {
            bytes: Cell::new(WINDOW_BYTES),
            more: Notify::new(),
            broken: Cell::new(false),
        });
        self.credits.insert(fd, Rc::clone(&credit));
        let task = carry_output(Rc::clone(link), stream, fd, receiver, credit);
        self.outputs.borrow_mut().push(tokio::task::spawn_local(task));
        Ok(theirs)
    }

    fn input(&mut self, link: &Rc<Link>, stream: u32, fd: u8) -> anyhow::Result<OwnedFd> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        let sender = Sender::from_owned_fd(ours)?;
        let (tx, rx) = mpsc::unbounded_channel();
        self.inputs.borrow_mut().insert(fd, tx);
        let want = [&[fd][..], &INPUT_BYTES.to_le_bytes()].concat();
        link.send(Kind::Credit, stream, want);
        tokio::task::spawn_local(carry_input(Rc::clone(link), stream, fd, sender, rx));
        Ok(theirs)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.outputs.borrow().iter().for_each(JoinHandle::abort);
    }
}

async fn carry_output(link: Rc<Link>, stream: u32, fd: u8, mut pipe: Receiver, credit: Rc<Credit>) {
    let mut buffer = vec![0; DATA_BYTES_MAX];
    loop {
        while credit.bytes.get() == 0 && !credit.broken.get() {
            credit.more.notified().await;
        }
        if credit.broken.get() {
            // Dropping the pipe gives the program the EPIPE that it would have got at the origin.
            return;
        }
        let room = credit.bytes.get().min(buffer.len());
        let broken = async {
            while !credit.broken.get() {
                credit.more.notified().await;
            }
        };
        let read = tokio::select! {
            read = pipe.read(&mut buffer[..room]) => read,
            () = broken => return,
        };
        match read {
            Ok(0) | Err(_) => {
                link.send(Kind::Closed, stream, vec![fd]);
                return;
            }
            Ok(bytes) => {
                credit.bytes.set(credit.bytes.get() - bytes);
                link.send(Kind::Data, stream, [&[fd], &buffer[..bytes]].concat());
            }
        }
    }
}

async fn carry_input(
    link: Rc<Link>,
    stream: u32,
    fd: u8,
    mut pipe: Sender,
    mut rx: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    while let Some(bytes) = rx.recv().await {
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
        link.send(Kind::Credit, stream, [&[fd][..], &INPUT_BYTES.to_le_bytes()].concat());
    }
}

fn null(flags: u32) -> std::io::Result<File> {
    let access = flags & u32::try_from(libc::O_ACCMODE).unwrap_or(3);
    let reads = access != u32::try_from(libc::O_WRONLY).unwrap_or(1);
    let writes = access != u32::try_from(libc::O_RDONLY).unwrap_or(0);
    File::options().read(reads).write(writes).open("/dev/null")
}
