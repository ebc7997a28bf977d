//! `suanli merge`: a checkpoint with what its adapters learned in it.

use crate::arguments::Merge;
use crate::context::Context;
use crate::exit::Failure;
use crate::{show, words};
use serde_json::json;
use suanli_store::checkpoint::{self, Card, Contents, Overwrite};

pub(super) fn run(context: &Context, arguments: &Merge) -> Result<(), Failure> {
    let mut model = checkpoint::read(&arguments.checkpoint)?;
    let (lora, adapters) = checkpoint::read_adapter(&arguments.adapter, &model.config)?;
    lora.merge(&model.config, &adapters, &mut model.params);
    let from = |path: &std::path::Path| path.display().to_string();
    let card = Card {
        name: "A model with merged adapters".to_owned(),
        facts: vec![
            ("checkpoint".to_owned(), from(&arguments.checkpoint)),
            ("adapters".to_owned(), from(&arguments.adapter)),
            ("rank, alpha".to_owned(), format!("{}, {}", lora.rank, lora.alpha)),
        ],
        sample: None,
    };
    let contents = Contents {
        config: &model.config,
        params: &model.params,
        tokenizer: &model.tokenizer,
        companions: &model.companions,
        card: &card,
    };
    checkpoint::write(&arguments.out, &contents, Overwrite::OursOnly)?;
    let folder = from(&arguments.out);
    let answer = json!({
        "folder": folder,
        "rank": lora.rank,
        "alpha": lora.alpha,
        "targets": lora.targets,
        "adapter_parameters": adapters.len(),
    });
    context.answer(&answer, || {
        let targets: Vec<&str> = lora.targets.iter().map(|target| target.name()).collect();
        let count = show::count(adapters.len() as u64);
        words::merged(context.language, &count, &targets.join(", "), &show::printable(&folder))
    })
}
