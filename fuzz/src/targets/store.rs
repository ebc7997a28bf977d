//! What a person hands in as a file: the job file.

use crate::Target;
use suanli_store::job_file::JobFile;

pub(crate) const TARGETS: &[Target] = &[Target::new(
    "job-file",
    "a job file reads back as it was, or its error names what to mend",
    files,
    file,
)];

fn files() -> Vec<Vec<u8>> {
    let paths = vec!["texts".to_owned(), "notes/*.jsonl".to_owned()];
    let small = "[data]\npaths = [\"a\"]\n[training]\ntokens = 1000000\n";
    vec![JobFile::with_paths(paths).to_toml().into_bytes(), small.into()]
}

fn file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match JobFile::parse(text) {
        Ok(job) => {
            assert!(job.model_config(job.tokenizer.vocab).check().is_ok());
            let _ = (job.tokens_total(), job.rounds_total());
            assert_eq!(JobFile::parse(&job.to_toml()).expect("our own text"), job);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
