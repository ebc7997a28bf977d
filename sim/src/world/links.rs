//! Links between the nodes of a world: dialled, up, carrying frames, cut.

use super::{Event, Host, World};
use crate::network::Side;
use suanli_node::city::{self, ConnId};
use suanli_node::family;
use suanli_rdpa::Frame;

impl World {
    pub(super) fn frame(&mut self, link: u64, to: Side, frame: Frame) {
        let Some(known) = self.network.link(link) else { return };
        let (node, boot, up) = match to {
            Side::City => (0, known.city_boot, known.city_up),
            Side::Family => (known.family + 1, known.family_boot, known.family_up),
        };
        if !up || self.nodes[node].boot != boot {
            return;
        }
        if self.now < self.nodes[node].stalled_until {
            return self.at(self.nodes[node].stalled_until, Event::Frame { link, to, frame });
        }
        let digest = frame.digest().0;
        let word = u64::from_le_bytes([
            digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
        ]);
        let header = frame.header();
        self.mark(1, word, link ^ header.request << 20 ^ (header.opcode as u64) << 60);
        self.with(node, |host, cx| match host {
            Host::Down => Ok(()),
            Host::City(city) => city.input(cx, city::Input::Frame { conn: ConnId(link), frame }),
            Host::Family(family) => family.input(cx, family::Input::Frame(frame)),
        });
    }

    pub(super) fn dial(&mut self, family: usize, boot: u64) {
        let node = family + 1;
        let slot = &self.nodes[node];
        if slot.boot != boot || slot.link.is_some() || matches!(slot.host, Host::Down) {
            return;
        }
        let reachable = !matches!(self.nodes[0].host, Host::Down)
            && self.now >= slot.partitioned_until
            && self.now >= self.nodes[0].stalled_until;
        if !reachable {
            let wait = 200 + self.random.below(800);
            return self.at(self.now + wait, Event::Dial { family, boot });
        }
        let link = self.network.open(family, self.nodes[0].boot, boot);
        self.nodes[node].link = Some(link);
        let trip = 2 + self.random.below(60);
        self.at(self.now + trip, Event::Up { link, side: Side::City });
        self.at(self.now + 2 * trip, Event::Up { link, side: Side::Family });
    }

    pub(super) fn up(&mut self, link: u64, side: Side) {
        let seed = self.random.next_u64();
        let Some(known) = self.network.link(link).cloned() else { return };
        match side {
            Side::City if self.nodes[0].boot == known.city_boot && known.city_up => {
                let peer = self.families[known.family].key.node();
                self.with(0, |host, cx| match host {
                    Host::City(city) => {
                        let conn = ConnId(link);
                        city.input(cx, city::Input::Opened { conn, peer, from: None, seed })
                    }
                    _ => Ok(()),
                });
            }
            Side::Family if self.nodes[known.family + 1].link == Some(link) && known.family_up => {
                self.with(known.family + 1, |host, cx| match host {
                    Host::Family(family) => family.input(cx, family::Input::Linked { seed }),
                    _ => Ok(()),
                });
            }
            _ => {}
        }
    }

    /// A side ends a link; the other side hears of it, or finds out.
    pub(super) fn drop_link(&mut self, link: u64, by: Side) {
        let wait = 5 + self.random.below(300);
        let told = self.random.chance(850);
        let Some(known) = self.network.link_mut(link) else { return };
        let other = match by {
            Side::City => {
                known.city_up = false;
                Side::Family
            }
            Side::Family => {
                known.family_up = false;
                Side::City
            }
        };
        if told {
            self.at(self.now + wait, Event::Down { link, side: other });
        } else {
            self.network.silence(link);
        }
        self.network.sweep();
    }

    pub(super) fn down(&mut self, link: u64, side: Side) {
        let Some(known) = self.network.link_mut(link) else { return };
        let family = known.family;
        match side {
            Side::City => {
                known.city_up = false;
                if known.city_boot == self.nodes[0].boot {
                    self.with(0, |host, cx| match host {
                        Host::City(city) => {
                            city.input(cx, city::Input::Closed { conn: ConnId(link) })
                        }
                        _ => Ok(()),
                    });
                }
            }
            Side::Family => {
                known.family_up = false;
                let node = family + 1;
                if self.nodes[node].link == Some(link) {
                    self.nodes[node].link = None;
                    self.with(node, |host, cx| match host {
                        Host::Family(family) => family.input(cx, family::Input::LinkLost),
                        _ => Ok(()),
                    });
                    let boot = self.nodes[node].boot;
                    let wait = 50 + self.random.below(500);
                    self.at(self.now + wait, Event::Dial { family, boot });
                }
            }
        }
        self.network.sweep();
    }
}
