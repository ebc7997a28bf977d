//! 64-bit cells: counters, flags and claims that several peers share.

use super::{HoldError, Holder};
use suanli_rdpa::limits::CELLS_MAX;
use suanli_rdpa::{Code, RegionName};

impl Holder {
    /// Registers cells under a name, all zero; those that are there stay as they are.
    ///
    /// # Errors
    /// [`HoldError::Full`] for too many names or cells.
    pub fn add_cells(&self, name: &RegionName, count: u32) -> Result<(), HoldError> {
        let mut state = self.state();
        let max = self.limits.regions_max;
        if !(1..=CELLS_MAX).contains(&count) {
            return Err(HoldError::Full { max: CELLS_MAX as usize });
        }
        if state.cells.len() >= max && !state.cells.contains_key(name) {
            return Err(HoldError::Full { max });
        }
        state.cells.entry(name.clone()).or_insert_with(|| vec![0; count as usize]);
        Ok(())
    }

    /// What a cell holds.
    #[must_use]
    pub fn cell(&self, name: &RegionName, cell: u32) -> Option<u64> {
        self.state().cells.get(name)?.get(cell as usize).copied()
    }

    pub(super) fn cell_count(&self, name: &RegionName) -> Option<u32> {
        let count = self.state().cells.get(name)?.len();
        Some(u32::try_from(count).expect("at most CELLS_MAX"))
    }

    /// Changes a cell; returns what it held.
    pub(super) fn change(
        &self,
        name: &RegionName,
        cell: u32,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<u64, Code> {
        let mut state = self.state();
        let cells = state.cells.get_mut(name).ok_or(Code::NoSuchRegion)?;
        let cell = cells.get_mut(cell as usize).ok_or(Code::OutOfRange)?;
        let held = *cell;
        *cell = change(held);
        Ok(held)
    }
}
