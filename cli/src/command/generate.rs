//! `suanli generate`: continue a text with an exported checkpoint.

use crate::exit::Failure;
use std::path::Path;

/// Continues `prompt` by at most `tokens` tokens, without the prompt itself.
pub(crate) fn continue_text(
    _checkpoint: &Path,
    _prompt: &str,
    _tokens: u32,
    _seed: u64,
) -> Result<String, Failure> {
    Err(Failure::ours("this command is not in this build"))
}
