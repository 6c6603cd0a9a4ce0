//! Checks of a cell.

use crate::{
    convert::{TEXT_MAX, need, text},
    pb,
};
use sitefs_base::{
    Error, Result,
    check::{CheckEvent, CheckFinding, CheckOptions, CheckProgress, CheckSummary},
};

/// Repairs in one request.
const REPAIRS_MAX: usize = 1_000;
/// The longest repair, in bytes.
const REPAIR_MAX: usize = 4_096;

impl From<CheckOptions> for pb::CheckRequest {
    fn from(options: CheckOptions) -> Self {
        let CheckOptions { rows_per_second, snapshots, objects, deep, bytes_per_second, resume } = options;
        Self {
            claimed_identity: String::new(),
            rows_per_second,
            snapshots,
            objects,
            deep,
            bytes_per_second,
            resume,
        }
    }
}

impl TryFrom<pb::CheckRequest> for CheckOptions {
    type Error = Error;
    fn try_from(request: pb::CheckRequest) -> Result<Self> {
        let pb::CheckRequest { rows_per_second, snapshots, objects, deep, bytes_per_second, .. } = request;
        let resume =
            request.resume.map(|resume| text(resume, TEXT_MAX, "a place to go on from")).transpose()?;
        Ok(Self { rows_per_second, snapshots, objects, deep, bytes_per_second, resume })
    }
}

impl From<CheckFinding> for pb::CheckFinding {
    fn from(finding: CheckFinding) -> Self {
        let (repair, repair_body) = finding.repair.unwrap_or_default();
        Self {
            kind: finding.kind,
            is_damage: finding.is_damage,
            volume: finding.volume,
            path: finding.path,
            what: finding.what,
            means: finding.means,
            advice: finding.advice,
            object: finding.object,
            repair,
            repair_body: repair_body.into(),
        }
    }
}

impl From<pb::CheckFinding> for CheckFinding {
    fn from(finding: pb::CheckFinding) -> Self {
        let repair =
            (!finding.repair_body.is_empty()).then(|| (finding.repair, finding.repair_body.to_vec()));
        Self {
            kind: finding.kind,
            is_damage: finding.is_damage,
            volume: finding.volume,
            path: finding.path,
            what: finding.what,
            means: finding.means,
            advice: finding.advice,
            object: finding.object,
            repair,
        }
    }
}

impl From<CheckEvent> for pb::CheckEvent {
    fn from(event: CheckEvent) -> Self {
        use pb::check_event::Event;
        let event = match event {
            CheckEvent::Found(finding) => Event::Found((*finding).into()),
            CheckEvent::Progress(CheckProgress { stage, done, total, resume }) => {
                Event::Progress(pb::CheckProgress { stage, done, total, resume })
            }
            CheckEvent::Done(summary) => Event::Done(summary.into()),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<pb::CheckEvent> for CheckEvent {
    type Error = Error;
    fn try_from(event: pb::CheckEvent) -> Result<Self> {
        use pb::check_event::Event;
        Ok(match need(event.event, "event")? {
            Event::Found(finding) => Self::Found(Box::new(finding.into())),
            Event::Progress(pb::CheckProgress { stage, done, total, resume }) => {
                Self::Progress(CheckProgress { stage, done, total, resume })
            }
            Event::Done(summary) => Self::Done(summary.into()),
        })
    }
}

macro_rules! both_ways {
    ($($field:ident),*) => {
        impl From<CheckSummary> for pb::CheckSummary {
            fn from(summary: CheckSummary) -> Self {
                Self { $($field: summary.$field),* }
            }
        }
        impl From<pb::CheckSummary> for CheckSummary {
            fn from(summary: pb::CheckSummary) -> Self {
                Self { $($field: summary.$field),* }
            }
        }
    };
}
both_ways! {
    rows, volumes, inodes, references, blobs, objects, unused_objects, bytes_read, untold, replayed
}

/// Repairs that findings carried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairAll {
    /// The repairs as the cell gave them.
    pub repairs: Vec<Vec<u8>>,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<RepairAll> for pb::RepairRequest {
    fn from(all: RepairAll) -> Self {
        let repairs = all.repairs.into_iter().map(Into::into).collect();
        Self { claimed_identity: all.claimed_identity, repairs }
    }
}

impl TryFrom<pb::RepairRequest> for RepairAll {
    type Error = Error;
    fn try_from(request: pb::RepairRequest) -> Result<Self> {
        if request.repairs.len() > REPAIRS_MAX || request.repairs.iter().any(|one| one.len() > REPAIR_MAX) {
            return Err(Error::invalid(format!("more than {REPAIRS_MAX} repairs, or a very long one")));
        }
        let repairs = request.repairs.into_iter().map(|one| one.to_vec()).collect();
        Ok(Self { repairs, claimed_identity: text(request.claimed_identity, TEXT_MAX, "an identity")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_survive_the_wire() {
        let options = CheckOptions {
            rows_per_second: Some(5),
            snapshots: true,
            objects: true,
            deep: true,
            bytes_per_second: None,
            resume: Some("1-ab".to_owned()),
        };
        assert_eq!(CheckOptions::try_from(pb::CheckRequest::from(options.clone())).unwrap(), options);
        let finding = CheckFinding {
            kind: "size-wrong".to_owned(),
            is_damage: true,
            volume: Some("acme/live".to_owned()),
            path: None,
            what: "what".to_owned(),
            means: "means".to_owned(),
            advice: "advice".to_owned(),
            object: None,
            repair: Some(("this".to_owned(), vec![1, 2])),
        };
        let summary = CheckSummary { rows: 1, untold: 9, replayed: 7, ..CheckSummary::default() };
        let progress = CheckProgress { stage: "rows".to_owned(), done: 1, total: 2, resume: None };
        let events =
            [CheckEvent::Found(Box::new(finding)), CheckEvent::Progress(progress), CheckEvent::Done(summary)];
        for event in events {
            assert_eq!(CheckEvent::try_from(pb::CheckEvent::from(event.clone())).unwrap(), event);
        }
        let all = RepairAll { repairs: vec![vec![1]], claimed_identity: "me".to_owned() };
        assert_eq!(RepairAll::try_from(pb::RepairRequest::from(all.clone())).unwrap(), all);
        let many = RepairAll { repairs: vec![vec![]; REPAIRS_MAX + 1], ..all };
        assert!(RepairAll::try_from(pb::RepairRequest::from(many)).is_err());
    }
}
