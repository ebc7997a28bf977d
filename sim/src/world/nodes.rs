//! The nodes of a world: booted, stopped, crashed, and what faults and owners do to them.

use super::{Event, Host, World};
use crate::city_host::CityHost;
use crate::context::Stop;
use crate::family_host::FamilyHost;
use crate::faults::Fault;
use crate::network::Side;
use suanli_node::family::Owner;

impl World {
    pub(super) fn boot(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        if !matches!(slot.host, Host::Down) || slot.gone {
            return;
        }
        slot.boot += 1;
        slot.wake = None;
        slot.offset += core::mem::take(&mut slot.offset_at_boot);
        let boot = slot.boot;
        self.mark(5, node as u64, boot);
        let now = self.clock(node);
        let slot = &mut self.nodes[node];
        let (_, mut cx) = slot.parts(now, &mut self.watch, self.settings.bug);
        let booted = if node == 0 {
            CityHost::boot(&mut cx, &self.city_key, self.limits, &self.job)
                .map(|host| Host::City(Box::new(host)))
        } else {
            FamilyHost::boot(&mut cx, &self.families[node - 1])
                .map(|host| Host::Family(Box::new(host)))
        };
        let posts = cx.out;
        match booted {
            Ok(host) => {
                self.nodes[node].host = host;
                self.deliver(node, posts);
                self.plan_wake(node);
                if node > 0 {
                    self.at(self.now + 5, Event::Dial { family: node - 1, boot });
                }
            }
            Err(Stop::Crash) => {
                self.nodes[node].disk.crash();
                let wait = 100 + self.random.below(500);
                self.at(self.now + wait, Event::Boot { node });
            }
            Err(Stop::Broken(why)) => {
                self.watch.violation(format!("node {node} cannot start: {why}"));
            }
        }
    }

    /// A process ends; its links end with it.
    pub(super) fn stop(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        slot.host = Host::Down;
        slot.boot += 1;
        slot.stalled_until = 0;
        slot.link = None;
        let (links, side) = if node == 0 {
            (self.network.links_of(None), Side::City)
        } else {
            (self.network.links_of(Some(node - 1)), Side::Family)
        };
        for link in links {
            self.drop_link(link, side);
        }
    }

    pub(super) fn crash(&mut self, node: usize, down_ms: u64) {
        if matches!(self.nodes[node].host, Host::Down) {
            return;
        }
        self.stop(node);
        self.nodes[node].disk.crash();
        self.crashes += 1;
        self.mark(6, node as u64, 0);
        self.at(self.now + down_ms, Event::Boot { node });
    }

    pub(super) fn owner(&mut self, family: usize, wish: Owner) {
        self.with(family + 1, |host, cx| match host {
            Host::Family(family) => family.owner(cx, wish),
            _ => Ok(()),
        });
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Crash { node, down_ms } => self.crash(node, down_ms),
            Fault::Fuse { node, operations } => self.nodes[node].disk.die_after(operations),
            Fault::Cut { family } => {
                for link in self.network.links_of(Some(family)) {
                    let (a, b) = (self.random.below(200), self.random.below(200));
                    self.network.silence(link);
                    self.at(now + a, Event::Down { link, side: Side::City });
                    self.at(now + b, Event::Down { link, side: Side::Family });
                }
            }
            Fault::Silence { family } => {
                for link in self.network.links_of(Some(family)) {
                    self.network.silence(link);
                }
            }
            Fault::Partition { family, ms } => {
                self.nodes[family + 1].partitioned_until = now + ms;
                for link in self.network.links_of(Some(family)) {
                    self.network.silence(link);
                }
            }
            Fault::Full { node, ms } => {
                self.nodes[node].disk.set_full(true);
                self.at(now + ms, Event::Heal { node });
            }
            Fault::BadSync { node } => self.nodes[node].disk.fail_syncs(1),
            Fault::ClockStep { node, by } => {
                let slot = &mut self.nodes[node];
                // A running process keeps to its monotonic clock; a large step back shows at a start.
                if by < -3000 {
                    slot.offset_at_boot += by;
                } else {
                    slot.offset += by;
                }
            }
            Fault::Stall { node, ms } => self.nodes[node].stalled_until = now + ms,
            Fault::Pause { family, ms } => {
                self.owner(family, Owner::Pause);
                self.at(now + ms, Event::Resume { family });
            }
            Fault::Leave { family, ms } => {
                self.owner(family, Owner::Leave);
                self.at(now + ms, Event::Rejoin { family });
            }
            Fault::OldPrivate { family } => {
                let node = family + 1;
                self.crash(node, 500);
                if crate::family_host::age_private(&mut self.nodes[node].disk) {
                    self.watch.private_lost(self.families[family].key.node());
                }
            }
            Fault::EngineDies { family } => self.with(family + 1, |host, cx| match host {
                Host::Family(family) => family.engine_dies(cx),
                _ => Ok(()),
            }),
        }
    }
}
