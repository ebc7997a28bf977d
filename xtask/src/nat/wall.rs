//! A home router's rules, told to the kernel over netlink: what leaves gets the router's address,
//! what comes and is no answer is dropped.
//!
//! The layout is that of `linux/netfilter/nf_tables.h` and `nfnetlink.h`; `nft` does the same, and is
//! seldom installed.

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 10 << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;
const SUBSYSTEM: u16 = 10;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const IPV4: u8 = 2;
/// Hooks of the kernel: into this machine, through it, and on the way out.
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
/// What `meta` looks at.
const IN_DEVICE: u32 = 6;
const OUT_DEVICE: u32 = 7;
const PROTOCOL: u32 = 16;
const UDP: u8 = 17;

/// Builds the wall of the router whose side towards the world is the device `out`.
pub(super) fn build(out: &str, without_udp: bool) -> Result<()> {
    let mut batch = Batch::default();
    batch.push(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &[]);
    batch.table("translate");
    batch.chain("translate", "leave", POSTROUTING, 100, "nat");
    batch.rule("translate", "leave", &[is_device(OUT_DEVICE, out), expression("masq", &[])]);
    batch.table("wall");
    batch.chain("wall", "enter", INPUT, 0, "filter");
    batch.rule("wall", "enter", &[is_device(IN_DEVICE, out), drop_it()]);
    batch.chain("wall", "pass", FORWARD, 0, "filter");
    if without_udp {
        batch.rule("wall", "pass", &[is(PROTOCOL, &[UDP]), drop_it()]);
    }
    batch.push(BATCH_END, REQUEST, 0, SUBSYSTEM, &[]);
    batch.send()
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    count: u32,
    asked: usize,
}

impl Batch {
    fn push(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.count += 1;
        let length = u32::try_from(20 + body.len()).expect("a rule is short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
        self.asked += usize::from(flags & ACK != 0);
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &[Vec<u8>]) {
        self.push(kind, REQUEST | ACK | CREATE | flags, IPV4, 0, &body.concat());
    }

    fn table(&mut self, name: &str) {
        self.ask(NEW_TABLE, 0, &[text(1, name)]);
    }

    fn chain(&mut self, table: &str, name: &str, hook: u32, priority: u32, kind: &str) {
        let hook = nested(4, &[number(1, hook), number(2, priority)]);
        self.ask(NEW_CHAIN, 0, &[text(1, table), text(3, name), hook, text(7, kind)]);
    }

    fn rule(&mut self, table: &str, chain: &str, expressions: &[Vec<u8>]) {
        let body = [text(1, table), text(2, chain), nested(4, expressions)];
        self.ask(NEW_RULE, APPEND, &body);
    }

    fn send(self) -> Result<()> {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))
            .context("open a netlink socket")?;
        let sent = send(&socket, &self.bytes, SendFlags::empty())?;
        ensure!(sent == self.bytes.len(), "the kernel took {sent} bytes of {}", self.bytes.len());
        let (mut answers, mut buffer) = (0, vec![0; 1 << 16]);
        while answers < self.asked {
            let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while rest.len() >= 20 {
                let word = |at: usize| rest[at..at + 4].try_into().expect("four bytes");
                let length = usize::try_from(u32::from_ne_bytes(word(0)))?;
                let (kind, error) =
                    (u16::from_ne_bytes([rest[4], rest[5]]), i32::from_ne_bytes(word(16)));
                if kind == 2 && error != 0 {
                    bail!("the kernel refuses a rule: error {}", -error);
                }
                answers += usize::from(kind == 2);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a rule is short");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, attributes)])
}

/// Whether what `meta` sees is `value`: loaded into register 1, then compared.
fn is(what: u32, value: &[u8]) -> Vec<u8> {
    let load = expression("meta", &[number(1, 1), number(2, what)]);
    let value = nested(3, &[attribute(1, value)]);
    let compare = expression("cmp", &[number(1, 1), number(2, 0), value]);
    [load, compare].concat()
}

fn is_device(what: u32, name: &str) -> Vec<u8> {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    is(what, &padded)
}

fn drop_it() -> Vec<u8> {
    let verdict = nested(2, &[number(1, 0)]);
    expression("immediate", &[number(1, 0), nested(2, &[verdict])])
}
