//! The names of regions: one place that writes and reads them.

use suanli_base::{Hash, JobId, LeaseId, Round};
use suanli_rdpa::RegionName;

/// What a region name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Something of a job.
    Job(JobId, JobRegion),
    /// Content that a trainer brings, named by its root.
    Upload(Hash),
    /// What measures a link.
    Probe,
}

/// What a job's regions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobRegion {
    /// The canonical specification.
    Spec,
    /// The parameters; the newest version is opened.
    Theta,
    /// Which tensors the parameters are, for readers that know no model configuration.
    Tensors,
    /// The model that stays as it is, where only its adapters are trained: packed without loss.
    Frozen,
    /// The update that led to a version.
    Update(Round),
    /// A shard of the training data.
    Shard(u32),
    /// The held-out samples.
    HeldOut,
    /// The tokenizer's file.
    Tokenizer,
    /// Where a lease's contribution is staged.
    Lease(LeaseId),
}

impl Name {
    /// The text of this name.
    ///
    /// # Panics
    /// Never: the texts written here are region names.
    #[must_use]
    pub fn region(&self) -> RegionName {
        let text = match self {
            Self::Upload(root) => format!("upload/{root}"),
            Self::Probe => "probe".to_owned(),
            Self::Job(job, of) => match of {
                JobRegion::Spec => format!("job/{job}/spec"),
                JobRegion::Theta => format!("job/{job}/theta"),
                JobRegion::Tensors => format!("job/{job}/theta.tensors"),
                JobRegion::Frozen => format!("job/{job}/frozen"),
                JobRegion::Update(version) => format!("job/{job}/update/{version}"),
                JobRegion::Shard(index) => format!("job/{job}/data/{index}"),
                JobRegion::HeldOut => format!("job/{job}/held-out"),
                JobRegion::Tokenizer => format!("job/{job}/tokenizer"),
                JobRegion::Lease(lease) => format!("job/{job}/lease/{lease}"),
            },
        };
        RegionName::new(text).expect("written from hexadecimal digits, numbers and plain words")
    }

    /// Reads a name that [`Name::region`] wrote.
    #[must_use]
    pub fn parse(region: &RegionName) -> Option<Self> {
        if region.as_str() == "probe" {
            return Some(Self::Probe);
        }
        let mut words = region.as_str().split('/');
        let (kind, id) = (words.next()?, words.next()?);
        let name = match kind {
            "upload" => Self::Upload(id.parse().ok()?),
            "job" => {
                let job = id.parse().ok()?;
                let of = match (words.next()?, words.next()) {
                    ("spec", None) => JobRegion::Spec,
                    ("theta", None) => JobRegion::Theta,
                    ("theta.tensors", None) => JobRegion::Tensors,
                    ("frozen", None) => JobRegion::Frozen,
                    ("held-out", None) => JobRegion::HeldOut,
                    ("tokenizer", None) => JobRegion::Tokenizer,
                    ("update", Some(version)) => JobRegion::Update(Round(version.parse().ok()?)),
                    ("data", Some(index)) => JobRegion::Shard(index.parse().ok()?),
                    ("lease", Some(lease)) => JobRegion::Lease(LeaseId(lease.parse().ok()?)),
                    _ => return None,
                };
                Self::Job(job, of)
            }
            _ => return None,
        };
        (words.next().is_none() && name.region() == *region).then_some(name)
    }
}

/// Where the contribution to a lease is staged.
#[must_use]
pub fn region_of_lease(job: JobId, lease: LeaseId) -> RegionName {
    Name::Job(job, JobRegion::Lease(lease)).region()
}

/// Where a trainer writes content with this root.
#[must_use]
pub fn region_of_upload(root: Hash) -> RegionName {
    Name::Upload(root).region()
}

/// What measures a link: fixed bytes to read, and a staging area whose chunks are thrown away.
#[must_use]
pub fn region_of_probe() -> RegionName {
    Name::Probe.region()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_nothing_else_does() {
        let job = JobId([7; 32]);
        let parts = [
            JobRegion::Spec,
            JobRegion::Theta,
            JobRegion::Tensors,
            JobRegion::Frozen,
            JobRegion::Update(Round(12)),
            JobRegion::Shard(3),
            JobRegion::HeldOut,
            JobRegion::Tokenizer,
            JobRegion::Lease(LeaseId(9)),
        ];
        let names = parts.map(|part| Name::Job(job, part));
        for name in names.into_iter().chain([Name::Upload(Hash([1; 32])), Name::Probe]) {
            assert_eq!(Name::parse(&name.region()), Some(name));
        }
        for text in [
            format!("job/{job}/update/012"),
            format!("job/{job}"),
            "a/b/c".into(),
            "probe/1".into(),
        ] {
            assert_eq!(Name::parse(&RegionName::new(text).unwrap()), None);
        }
    }
}
