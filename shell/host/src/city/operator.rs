//! What the operator asks for over the control socket.

use super::{Process, environment};
use crate::control::{
    Answer, ControlCall, ControlReply, ControlRequest, NodeKind, Refusal, RefusalClass,
};
use crate::job::{Learned, Prepared};
use std::path::Path;
use suanli_base::JobId;
use suanli_bus::JobOutcome;
use suanli_log::JobPhase;
use suanli_node::city::{Command, CommandId, Input};

impl Process {
    pub(super) fn call(&mut self, call: ControlCall) -> Result<(), Refusal> {
        let (request, reply) = call.into_parts();
        let answer: Answer = match request {
            ControlRequest::Status => Ok(ControlReply::City(Box::new(self.status()))),
            ControlRequest::Jobs => Ok(ControlReply::Jobs { jobs: self.jobs() }),
            ControlRequest::Ticket { role, expires_in_s, uses } => self
                .ticket(role, expires_in_s, uses)
                .map(|ticket| ControlReply::Ticket { ticket: ticket.to_string() }),
            ControlRequest::Grant(order) => {
                self.grant(&order).map(|line| ControlReply::Grant { grant: line.to_string() })
            }
            ControlRequest::Revoke { prefix } => {
                return self.command(Command::Revoke(prefix), reply);
            }
            ControlRequest::Submit { folder } => match self.take_in(&folder) {
                Ok(spec) => return self.command(Command::Submit { spec }, reply),
                Err(refusal) => Err(refusal),
            },
            ControlRequest::Cancel { job } => match self.find(&job) {
                Ok(job) => {
                    let to = JobPhase::Cancelled;
                    return self.command(Command::Move { job, to }, reply);
                }
                Err(refusal) => Err(refusal),
            },
            ControlRequest::Export { job, dir, adapters } => self.export(&job, &dir, adapters),
            ControlRequest::Stop => {
                self.ended = Some(Ok(()));
                Ok(ControlReply::Done)
            }
            _ => Err(Refusal::not_here(NodeKind::City)),
        };
        // A caller that hung up meanwhile is no error.
        let _ = reply.send(answer);
        Ok(())
    }

    fn command(
        &mut self,
        command: Command,
        reply: tokio::sync::oneshot::Sender<Answer>,
    ) -> Result<(), Refusal> {
        self.commands += 1;
        let id = CommandId(self.commands);
        self.waiting.insert(id, reply);
        self.input(Input::Command { id, command })
    }

    pub(super) fn command_done(&mut self, id: CommandId, outcome: JobOutcome, job: JobId) {
        let Some(reply) = self.waiting.remove(&id) else { return };
        let answer = match outcome {
            JobOutcome::Done | JobOutcome::Known => {
                Ok(ControlReply::Submitted { job: job.to_string() })
            }
            JobOutcome::Refused(why) => Err(Refusal::new(RefusalClass::Input, why, "")),
        };
        // A caller that hung up meanwhile is no error.
        let _ = reply.send(answer);
    }

    pub(super) fn revoke_done(&mut self, id: CommandId, result: Result<u64, String>) {
        let Some(reply) = self.waiting.remove(&id) else { return };
        let answer = match result {
            Ok(epoch) => Ok(ControlReply::Revoked { epoch }),
            Err(why) => Err(Refusal::new(RefusalClass::Usage, why, "")),
        };
        // A caller that hung up meanwhile is no error.
        let _ = reply.send(answer);
    }

    /// Stores the content of a prepared folder and gives the specification.
    fn take_in(&mut self, folder: &Path) -> Result<Vec<u8>, Refusal> {
        let prepared = Prepared::open(folder)?;
        for (path, info) in &prepared.contents {
            self.files.take_in(path, info).map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => {
                    Refusal::new(RefusalClass::Input, error.to_string(), "prepare the job again")
                }
                _ => environment(format!("cannot store {}: {error}", path.display())),
            })?;
            self.commands += 1;
            let id = CommandId(self.commands);
            self.input(Input::Command { id, command: Command::Content(info.clone()) })?;
        }
        Ok(prepared.spec)
    }

    fn find(&self, text: &str) -> Result<JobId, Refusal> {
        let jobs = &self.node.state().jobs;
        let matches: Vec<JobId> = jobs
            .iter()
            .filter(|(id, job)| job.spec.name == text || id.to_string().starts_with(text))
            .map(|(id, _)| *id)
            .collect();
        let known = || jobs.iter().map(|(id, job)| format!("{} ({})", job.spec.name, id.short()));
        match matches[..] {
            [job] => Ok(job),
            [] => {
                let known: Vec<String> = known().collect();
                let text = format!("no job is called {text:?}; known are: {}", known.join(", "));
                Err(Refusal::new(RefusalClass::Input, text, "see `suanli jobs`"))
            }
            _ => {
                let text = format!("{} jobs match {text:?}", matches.len());
                Err(Refusal::new(RefusalClass::Input, text, "give more of its id"))
            }
        }
    }

    fn export(&self, job: &str, dir: &Path, adapters: bool) -> Answer {
        let id = self.find(job)?;
        let job = &self.node.state().jobs[&id];
        let tokenizer = std::fs::read(self.files.content(job.spec.tokenizer))
            .map_err(|error| environment(format!("the tokenizer's file: {error}")))?;
        let theta = self
            .files
            .blobs
            .get(job.state.theta)
            .map_err(|error| environment(error.to_string()))?;
        let frozen = job.spec.frozen.as_ref().map(|frozen| self.files.content(frozen.root));
        let learned = Learned {
            spec: &job.spec,
            version: job.version,
            tokens: job.tokens,
            theta: &theta,
            frozen: frozen.as_deref(),
        };
        match adapters {
            true => crate::job::export_adapters(&learned, dir)?,
            false => crate::job::export(&learned, &tokenizer, dir)?,
        }
        Ok(ControlReply::Exported {
            dir: dir.to_path_buf(),
            round: job.version.0,
            tokens: job.tokens.0,
        })
    }
}
