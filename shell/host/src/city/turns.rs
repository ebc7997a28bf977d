//! What goes out to whom next: control frames always, bulk within the operator's limits of upload,
//! and one frame each in turn, so that no member's download keeps another's waiting.

use super::Process;
use suanli_node::city::ConnId;

impl Process {
    pub(super) fn transmit(&mut self) {
        if self.uplink.is_limited() {
            return self.transmit_within_limits();
        }
        for (conn, (_, wire)) in &mut self.wires {
            while wire.has_room() {
                let Some(frame) = self.node.poll_transmit(*conn) else { break };
                wire.send(frame);
            }
        }
    }

    fn transmit_within_limits(&mut self) {
        for (conn, (_, wire)) in &mut self.wires {
            while wire.has_room() {
                let Some(frame) = self.node.poll_control(*conn) else { break };
                wire.send(frame);
            }
        }
        // In turn: from the one that waited when the limit was reached.
        let from = self.wires.range(self.turn..).map(|(conn, _)| *conn);
        let mut order: Vec<ConnId> =
            from.chain(self.wires.range(..self.turn).map(|(conn, _)| *conn)).collect();
        while !order.is_empty() {
            let mut held = None;
            order.retain(|conn| held.is_some() || self.send_one(*conn, &mut held));
            if let Some(conn) = held {
                self.turn = conn;
                return;
            }
        }
        self.uplink.idle();
    }

    /// Sends one bulk frame; whether there may be more. `held` becomes the connection when the limits
    /// hold it back.
    fn send_one(&mut self, conn: ConnId, held: &mut Option<ConnId>) -> bool {
        let Some((_, wire)) = self.wires.get(&conn).filter(|(_, wire)| wire.has_room()) else {
            return false;
        };
        let Some(bytes) = self.node.bulk_waiting(conn) else { return false };
        if !self.uplink.may_send(bytes as u64) {
            *held = Some(conn);
            return true;
        }
        let Some(frame) = self.node.poll_bulk(conn) else { return false };
        self.uplink.sent(bytes as u64);
        wire.send(frame);
        true
    }
}
