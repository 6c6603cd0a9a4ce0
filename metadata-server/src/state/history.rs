//! Which superseded rows are kept (DESIGN D2).

use sitefs_base::Seq;

/// The seqs `[born, died)` during which a row held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// The first seq at which it held.
    pub born: Seq,
    /// The first seq at which it no longer held.
    pub died: Seq,
}

impl Life {
    /// Whether the row held at `seq`.
    pub fn holds(self, seq: Seq) -> bool {
        self.born <= seq && seq < self.died
    }
}

/// Whether a superseded row must be kept: it died after the horizon, or a pin needs it. The one
/// function for reads, compaction, mark and fsck.
pub fn keep(life: Life, horizon: Seq, pins: &[Seq]) -> bool {
    life.died > horizon || pins.iter().any(|pin| life.holds(*pin))
}

/// Whether a row that dies now is worth keeping at all: it held at the end of a whole second
/// (`second_floor` is the last such seq), or at a pin.
pub(super) fn worth_keeping(life: Life, second_floor: Seq, pins: &[Seq]) -> bool {
    life.born <= second_floor || pins.iter().any(|pin| life.holds(*pin))
}
