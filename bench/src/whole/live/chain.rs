//! What a city's folder says, read while no city runs on it: the committed rounds and the hash of
//! every signed head.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use suanli_base::{CityId, Hash};
use suanli_bus::{CityState, Head};
use suanli_identity::Signed;
use suanli_log::Entry;
use suanli_store::{LogFiles, RealDisk, load_key};

/// The only job of a city, as its disk has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::whole) struct OnDisk {
    /// Committed rounds.
    pub(in crate::whole) round: u64,
    /// Hash of the signed head of every committed version.
    pub(in crate::whole) heads: BTreeMap<u64, Hash>,
}

impl OnDisk {
    /// Reads a folder and changes nothing in it.
    pub(in crate::whole) fn read(folder: &Path) -> Result<Self> {
        let key = load_key(&folder.join("city.key")).context("the city's key")?;
        let city = CityId::from(key.node());
        let disk = RealDisk::new(folder);
        let log = LogFiles::inspect(&disk, "log", Hash(city.0)).context("the city's log")?;
        let mut state = match log.state.as_deref() {
            None => CityState::new(),
            Some(bytes) => postcard::from_bytes(bytes).context("the log's snapshot")?,
        };
        for body in &log.bodies {
            let entry = Entry::from_bytes(body).context("an entry of the log")?;
            state.apply(&entry).context("an entry of the log")?;
        }
        let Some((id, job)) = state.jobs.iter().next() else { return Ok(Self::default()) };
        let heads = LogFiles::inspect(&disk, &format!("heads/{id}"), Hash(id.0));
        let heads = heads.context("the chain of heads")?;
        let mut found = BTreeMap::new();
        for body in &heads.bodies {
            let signed: Signed = postcard::from_bytes(body).context("a head")?;
            let head = Head::open(&signed, city, *id).context("a head")?;
            // A head is written before its entry; one that is ahead is not committed.
            if head.version <= job.version && found.insert(head.version.0, signed.hash()).is_some()
            {
                bail!("version {} has two heads", head.version.0);
            }
        }
        Ok(Self { round: job.version.0, heads: found })
    }

    /// Committed rounds of `self` that `later` lacks, and heads that are others there.
    pub(in crate::whole) fn lost_in(&self, later: &Self) -> (u64, u64) {
        let lost = self.round.saturating_sub(later.round);
        let differ = |(version, hash): (&u64, &Hash)| {
            later.heads.get(version).is_some_and(|other| other != hash)
        };
        (lost, self.heads.iter().filter(|head| differ(*head)).count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_rounds_and_other_heads_are_counted() {
        let chain = |round: u64, salt: u8| OnDisk {
            round,
            heads: (0..=round).map(|v| (v, Hash([salt + v as u8; 32]))).collect(),
        };
        assert_eq!(chain(3, 0).lost_in(&chain(5, 0)), (0, 0));
        assert_eq!(chain(3, 0).lost_in(&chain(2, 0)), (1, 0));
        assert_eq!(chain(3, 0).lost_in(&chain(4, 9)), (0, 4));
    }
}
