#!/usr/bin/env bash
# convert.sh - plexus plan and convert on models of other programs.
models=$PWD/tests/golden/families
. "$(dirname "$0")/common.bash"
expect "the plan of a GGUF" 0 '"parameters": ?[0-9]+' "$plexus" plan "$models/llama.gguf" --json
expect "the plan of a Hugging Face directory" 0 'attention' "$plexus" plan "$models/gpt_neox"
expect "a GGUF in our layout" 0 'written to ours' "$plexus" convert "$models/gpt_neox.gguf" --out ours
check "with our names" grep -qa 'model.layers.1.mixer.q_proj.weight' ours/model.safetensors
expect "and in its family's, JSON" 0 '"family":"gpt_neox"' \
    "$plexus" convert ours --out theirs --family gpt_neox --type f16 --json
check "with its names" grep -qa 'gpt_neox.layers.1.attention.query_key_value.weight' theirs/model.safetensors
check "and its type" grep -q '"torch_dtype": "float16"' theirs/config.json
expect "what is there stays" 1 'ours' "$plexus" convert theirs --out ours
expect "another family's layout" 1 'llama cannot say' "$plexus" convert ours --out x --family llama
expect "no such family" 1 "no family 'gpt2'" "$plexus" convert ours --out x --family gpt2
expect "no such type" 2 'not f8' "$plexus" convert ours --out x --type f8
expect "no directory named" 2 'out' "$plexus" convert ours
check "nothing is left of a failure" test ! -e x
head -c 3000 "$models/llama.gguf" >cut.gguf
expect "a file that is cut off" 1 'cut.gguf.*cut off' "$plexus" plan cut.gguf
adapters=${models%families}adapters
expect "a peft adapter, put on its base and merged" 0 'layout of llama' \
    "$plexus" convert "$models/llama-grouped" --adapter "$adapters/llama" --merge --family llama --out merged
check "leaves no adapter" bash -c "! grep -qa lora_ merged/model.safetensors"
expect "or kept beside the weights" 0 'layout of plexus' \
    "$plexus" convert "$models/gpt_neox" --adapter "$adapters/gpt_neox" --out beside
expect "which the family cannot say" 1 'cannot say adapter' "$plexus" convert beside --family gpt_neox --out x
expect "and written alone again" 0 'layout of peft' \
    "$plexus" convert beside --adapter-only --base EleutherAI/some --out alone
check "with its base's name" grep -q '"base_model_name_or_path": "EleutherAI/some"' alone/adapter_config.json
check "and peft's names" grep -qa 'attention.query_key_value.lora_A.weight' alone/adapter_model.safetensors
expect "nothing to merge" 1 'no adapter to merge' "$plexus" convert "$models/llama" --merge --out x
expect "an adapter of another model" 1 'adapter_model.safetensors.*shape' \
    "$plexus" generate "$models/llama" --adapter "$adapters/llama" --prompt a
expect "merged and alone at once" 2 'neither' "$plexus" convert beside --merge --adapter-only --out x
expect "a model that is not known" 1 'config.json.*mamba' bash -c \
    "mkdir -p other && echo '{\"model_type\": \"mamba\"}' >other/config.json && $plexus generate other --prompt a"
