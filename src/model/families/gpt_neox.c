/* gpt_neox.c - GPT-NeoX (Pythia): LayerNorm, biases, a part of each head turned, attention and FFN side by side, and q,
 * k, v in one tensor. */
#include "model/families/family.h"

static const plx_family_name names[] = {
    {"model.embed_tokens", "gpt_neox.embed_in", "token_embd", 0, 0, 0},
    {"model.norm", "gpt_neox.final_layer_norm", "output_norm", 0, 0, 0},
    {"lm_head", "embed_out", "output", 0, 0, 0},
    {"model.layers.#.mixer_norm", "gpt_neox.layers.#.input_layernorm", "blk.#.attn_norm", 0, 0, 0},
    {"model.layers.#.ffn_norm", "gpt_neox.layers.#.post_attention_layernorm", "blk.#.ffn_norm", 0, 0, 0},
    {"model.layers.#.mixer.q_proj", "gpt_neox.layers.#.attention.query_key_value", "blk.#.attn_qkv",
     PLX_ROWS_FUSED_BY_HEAD, PLX_ROWS_FUSED_BY_PART, 0},
    {"model.layers.#.mixer.k_proj", "gpt_neox.layers.#.attention.query_key_value", "blk.#.attn_qkv",
     PLX_ROWS_FUSED_BY_HEAD, PLX_ROWS_FUSED_BY_PART, 1},
    {"model.layers.#.mixer.v_proj", "gpt_neox.layers.#.attention.query_key_value", "blk.#.attn_qkv",
     PLX_ROWS_FUSED_BY_HEAD, PLX_ROWS_FUSED_BY_PART, 2},
    {"model.layers.#.mixer.o_proj", "gpt_neox.layers.#.attention.dense", "blk.#.attn_output", 0, 0, 0},
    {"model.layers.#.ffn.up_proj", "gpt_neox.layers.#.mlp.dense_h_to_4h", "blk.#.ffn_up", 0, 0, 0},
    {"model.layers.#.ffn.down_proj", "gpt_neox.layers.#.mlp.dense_4h_to_h", "blk.#.ffn_down", 0, 0, 0},
    {0},
};
static const plx_family_key keys_of_directory[] = {
    {"vocab_size", "vocab_size", NULL},
    {"hidden_size", "hidden_size", NULL},
    {"intermediate_size", "intermediate_size", NULL},
    {"num_attention_heads", "num_attention_heads", NULL},
    {"max_position_embeddings", "max_position_embeddings", "2048"},
    {"layer_norm_eps", "norm_eps", "1e-5"},
    {"tie_word_embeddings", "tie_word_embeddings", "false"},
    {"attention_bias", "attention_bias", "true"},
    {"use_parallel_residual", "parallel_residual", "true"},
    {0},
};
static const plx_family_key keys_of_gguf[] = {
    {"embedding_length", "hidden_size", NULL},
    {"feed_forward_length", "intermediate_size", NULL},
    {"attention.head_count", "num_attention_heads", NULL},
    {"context_length", "max_position_embeddings", NULL},
    {"attention.layer_norm_epsilon", "norm_eps", NULL},
    {"use_parallel_residual", "parallel_residual", "true"},
    {0},
};
static const char *const ignored[] = {"hidden_dropout", "classifier_dropout", "rotary_emb_base", "rotary_pct", NULL};
static const char *const gguf_ignored[] = {NULL};
static const char *const no_weights[] = {"gpt_neox.layers.*.attention.bias", "gpt_neox.layers.*.attention.masked_bias",
                                         "gpt_neox.layers.*.attention.rotary_emb.inv_freq", NULL};

static plx_status fixed(plx_context *context, json_t *made)
{
    PLX_TRY(plx_made_set(context, made, "norm", json_string("layer")));
    PLX_TRY(plx_made_set(context, made, "hidden_act", json_string("gelu")));
    return plx_made_set(context, made, "mlp_bias", json_true());
}

/* Older names of the RoPE keys stand beside the newer ones and must not say otherwise. */
static plx_status read_older(plx_keys *keys, json_t *made, const char *theirs, const char *ours, double least,
                             double most)
{
    double older, known = json_number_value(json_object_get(made, ours));
    if (!plx_keys_has(keys, theirs)) return PLX_OK;
    PLX_TRY(plx_keys_real(keys, theirs, &older, least, most));
    if (json_object_get(made, ours) != NULL && known != older)
        return plx_keys_fail(keys, theirs, "%g, where %s says %g", older, ours, known);
    return plx_made_set(keys->context, made, ours, json_real(older));
}

static plx_status read(plx_keys *keys, json_t *made)
{
    bool bias = json_is_true(json_object_get(made, "attention_bias"));
    PLX_TRY(fixed(keys->context, made));
    PLX_TRY(read_older(keys, made, "rotary_emb_base", "rope_theta", 1, 1e12));
    PLX_TRY(read_older(keys, made, "rotary_pct", "partial_rotary_factor", 0, 1));
    if (json_object_get(made, "partial_rotary_factor") == NULL)
        PLX_TRY(plx_made_set(keys->context, made, "partial_rotary_factor", json_real(0.25)));
    return plx_made_set(keys->context, made, "attention_out_bias", json_boolean(bias));
}

static plx_status read_gguf(plx_keys *keys, const plx_store *store, json_t *made)
{
    bool bias = plx_store_find(store, "blk.0.attn_qkv.bias") != NULL;
    PLX_TRY(fixed(keys->context, made));
    PLX_TRY(plx_made_set(keys->context, made, "attention_bias", json_boolean(bias)));
    return plx_made_set(keys->context, made, "attention_out_bias", json_boolean(bias));
}

/* Both generations of names. */
static int write(const json_t *ours, json_t *made)
{
    return json_object_set(made, "rotary_pct", json_object_get(ours, "partial_rotary_factor")) |
           json_object_set(made, "rotary_emb_base", json_object_get(ours, "rope_theta"));
}

const plx_family plx_family_gpt_neox = {
    .name = "gpt_neox",
    .architecture = "GPTNeoXForCausalLM",
    .gguf = "gptneox",
    .activation = "gelu",
    .names = names,
    .keys = keys_of_directory,
    .gguf_keys = keys_of_gguf,
    .ignored = ignored,
    .gguf_ignored = gguf_ignored,
    .no_weights = no_weights,
    .read = read,
    .read_gguf = read_gguf,
    .write = write,
};
