"""The model card of the zoo's language model: one template, filled with the numbers of the run it describes."""

from __future__ import annotations

_TEMPLATE = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [llama, tiny, pairtune]
---

# tiny-lm

A causal language model of {parameters:,} parameters that ships inside pairtune (`--base zoo:tiny-lm`), so that
tuning, comparing, scoring and merging can be tried in a minute on a laptop without a network. It is a *base* to be
tuned: it writes English that is locally fluent, and it knows nothing you should rely on.

- Llama architecture: {layers} layers, width {width}, {heads} heads, SwiGLU {inner}, tied embeddings, context
  {context} tokens, weights in bfloat16.
- Byte-level BPE of {vocabulary:,} tokens trained on the same text; every byte string can be encoded. `<s>` (0) begins
  a text and is added by the tokenizer, `</s>` (1) ends it, `<pad>` (2) pads.

## Training

- {tokens:,} tokens seen, {steps:,} steps, {hours:.1f} hours, {speed:,.0f} tokens a second{hardware}.{date}
- Muon (matrices of the layers) and AdamW (embeddings, norms; betas 0.9, 0.95), weight decay 0.1, gradients clipped at
  norm 1, bfloat16 products with float32 weights and sums; warm-up, constant rate, then decay to zero
  (steps of 4,096 tokens, peak rate 0.003).
- Scripts: `pairtune.zoo.corpus`, `pairtune.zoo.pretrain_lm`, `pairtune.zoo.export_lm`, run as

```
{commands}
```

## Data

The corpus has {corpus_tokens:,} tokens with the repeats, shuffled over all sources. The run read {share:.0%} of it, in
windows drawn without replacement, so "tokens read" is the corpus's count times this share. About one document in a
hundred was held out.

| source | unique tokens | repeats | tokens read | of the mix | lines dropped | licence | from |
|---|---|---|---|---|---|---|---|
{data_rows}

"Lines dropped" counts the lines that share a run of {ngram} words with, or as a whole short sentence equal, the test
parts of the public sets that pairtune's own experiments score: CLINC150, BANKING77, SMS Spam, Amazon reviews, SST-2 and
IMDB, 20 Newsgroups, GSM8K, Super-NaturalInstructions, counterfactual SNLI, HANS, AG News, LIAR (of CLINC150 and
BANKING77 also the training parts), and the validation books and test preferences that pairtune measures with. None of
those sets was used for training. The instructions come from a collection that itself drew prompts from many public
tasks, so related tasks may occur in other words.

Some sources are under share-alike or copyleft licences (named above). Their texts are not distributed here, only
weights trained on them.

## Held-out loss

Of exactly these bfloat16 weights, computed in float32, in windows of {context} tokens without overlap (a little
pessimistic, since each window begins without context). Loss in nats a token. Sources with fewer than 100 held-out
tokens are left out.

| source | held-out tokens | loss | bits a byte |
|---|---|---|---|
{loss_rows}

## Limits

- Far too small and too briefly trained for facts, arithmetic, instructions or longer coherence. Do not use it to
  answer anybody.
- English only. Almost a third of the text is from before 1923, with the attitudes of its time. The chat is unmoderated
  student conversation from which lines with contact details and explicit words were dropped by rule, not by hand.
- Names and turns of phrase of single sources are easy to draw from it: the chats, the dictionary, the games.
- It has seen little news, speech, reviews, code or mathematics: as the base of a likelihood ratio it says little about
  such text.
- Texts beyond {context} tokens are beyond what it was trained on.
"""


def card(
    manifest: dict,
    state: dict,
    losses: dict[str, dict[str, float]],
    parameters: int,
    commands: str,
    when: str,
    hardware: str,
) -> str:
    """Fill the template; `manifest` is the corpus's, `state` the checkpoint's, `losses` those of these weights."""
    config = state["config"]
    share = min(1.0, state["tokens"] / manifest["tokens"])
    data_rows = "\n".join(
        f"| {name} | {s['unique_tokens']:,} | {s['repeats']} | {s['tokens'] * share:,.0f} "
        f"| {s['tokens'] / manifest['tokens']:.1%} | {s['lines_dropped_for_overlap']:,} "
        f"| {s['licence']} | {s['origin']} |"
        for name, s in manifest["sources"].items()
    )
    loss_rows = "\n".join(
        f"| {name} | {r['tokens']:,} | {r['loss']:.3f} | {r['bits_per_byte']:.3f} |" for name, r in losses.items()
    )
    return _TEMPLATE.format(
        parameters=parameters,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        context=config["max_position_embeddings"],
        vocabulary=manifest["vocabulary"],
        tokens=state["tokens"],
        steps=state["step"],
        hours=state["seconds"] / 3600,
        speed=state["tokens"] / max(1e-9, state["seconds"]),
        hardware=f", {hardware}" if hardware else "",
        date=f" Trained on {when}." if when else "",
        commands=commands.strip(),
        corpus_tokens=manifest["tokens"],
        ngram=8,
        share=share,
        data_rows=data_rows,
        loss_rows=loss_rows,
    )
