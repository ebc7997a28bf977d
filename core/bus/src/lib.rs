//! The machines of a round: worker, reducer, lease authority, merge, outer optimiser.
