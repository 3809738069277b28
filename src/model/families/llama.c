/* llama.c - Llama (SmolLM, TinyLlama, Llama 2 and 3) and Qwen2, which differs by its biases and windows. */
#include "model/families/family.h"

/* A GGUF of a Llama has the rows of q and k for a RoPE that turns neighbours; ours turns halves. */
#define LLAMA_NAMES(pairs)                                                                                             \
    {                                                                                                                  \
        {"model.embed_tokens", "model.embed_tokens", "token_embd", 0, 0, 0},                                           \
            {"model.norm", "model.norm", "output_norm", 0, 0, 0}, {"lm_head", "lm_head", "output", 0, 0, 0},           \
            {"model.layers.#.mixer_norm", "model.layers.#.input_layernorm", "blk.#.attn_norm", 0, 0, 0},               \
            {"model.layers.#.ffn_norm", "model.layers.#.post_attention_layernorm", "blk.#.ffn_norm", 0, 0, 0},         \
            {"model.layers.#.mixer.q_proj", "model.layers.#.self_attn.q_proj", "blk.#.attn_q", 0, pairs, 0},           \
            {"model.layers.#.mixer.k_proj", "model.layers.#.self_attn.k_proj", "blk.#.attn_k", 0, pairs, 0},           \
            {"model.layers.#.mixer.v_proj", "model.layers.#.self_attn.v_proj", "blk.#.attn_v", 0, 0, 0},               \
            {"model.layers.#.mixer.o_proj", "model.layers.#.self_attn.o_proj", "blk.#.attn_output", 0, 0, 0},          \
            {"model.layers.#.ffn.gate_proj", "model.layers.#.mlp.gate_proj", "blk.#.ffn_gate", 0, 0, 0},               \
            {"model.layers.#.ffn.up_proj", "model.layers.#.mlp.up_proj", "blk.#.ffn_up", 0, 0, 0},                     \
            {"model.layers.#.ffn.down_proj", "model.layers.#.mlp.down_proj", "blk.#.ffn_down", 0, 0, 0},               \
        {                                                                                                              \
            0                                                                                                          \
        }                                                                                                              \
    }
static const plx_family_name llama_names[] = LLAMA_NAMES(PLX_ROWS_INTERLEAVED);
static const plx_family_name qwen2_names[] = LLAMA_NAMES(PLX_ROWS_SAME);

#define LLAMA_KEYS(positions)                                                                                          \
    {"vocab_size", "vocab_size", NULL}, {"hidden_size", "hidden_size", NULL},                                          \
        {"intermediate_size", "intermediate_size", NULL}, {"num_attention_heads", "num_attention_heads", NULL},        \
        {"num_key_value_heads", "num_key_value_heads", ""}, {"head_dim", "head_dim", ""},                              \
        {"max_position_embeddings", "max_position_embeddings", positions}, {"rms_norm_eps", "norm_eps", "1e-6"},       \
    {                                                                                                                  \
        "tie_word_embeddings", "tie_word_embeddings", "false"                                                          \
    }
static const plx_family_key llama_keys[] = {
    LLAMA_KEYS("2048"), {"attention_bias", "attention_bias", "false"}, {"mlp_bias", "mlp_bias", "false"}, {0}};
static const plx_family_key qwen2_keys[] = {LLAMA_KEYS("32768"), {0}};
static const plx_family_key gguf_keys[] = {
    {"embedding_length", "hidden_size", NULL},
    {"feed_forward_length", "intermediate_size", NULL},
    {"attention.head_count", "num_attention_heads", NULL},
    {"attention.head_count_kv", "num_key_value_heads", ""},
    {"attention.key_length", "head_dim", ""},
    {"context_length", "max_position_embeddings", NULL},
    {"attention.layer_norm_rms_epsilon", "norm_eps", NULL},
    {0},
};
static const char *const ignored[] = {"pretraining_tp", NULL}; /* how an old program split its products */
static const char *const gguf_ignored[] = {"tensor_data_layout", NULL};
static const char *const no_weights[] = {"model.layers.*.self_attn.rotary_emb.inv_freq", "rope_freqs.weight", NULL};

/* These families turn whole heads. */
static plx_status whole_heads(plx_keys *keys, json_t *made)
{
    const json_t *part = json_object_get(made, "partial_rotary_factor");
    if (part == NULL || json_number_value(part) == 1) return PLX_OK;
    return plx_keys_fail(keys, "partial_rotary_factor", "%g, but this family turns whole heads",
                         json_number_value(part));
}

/* attention_bias of a Llama means all four projections. */
static plx_status read_llama(plx_keys *keys, json_t *made)
{
    PLX_TRY(whole_heads(keys, made));
    bool bias = json_is_true(json_object_get(made, "attention_bias"));
    return plx_made_set(keys->context, made, "attention_out_bias", json_boolean(bias));
}

/* Queries, keys and values have biases; layers from max_window_layers on may see a window. */
static plx_status read_qwen2(plx_keys *keys, json_t *made)
{
    bool windowed = false;
    size_t window = 0, first = 28;
    PLX_TRY(whole_heads(keys, made));
    PLX_TRY(plx_made_set(keys->context, made, "attention_bias", json_true()));
    PLX_TRY(plx_keys_bool(keys, "use_sliding_window", &windowed));
    if (windowed && plx_keys_node(keys, "sliding_window") == NULL) window = 4096; /* transformers' default */
    if (plx_keys_has(keys, "sliding_window") && windowed)
        PLX_TRY(plx_keys_size(keys, "sliding_window", &window, 1, INT32_MAX));
    if (plx_keys_has(keys, "max_window_layers"))
        PLX_TRY(plx_keys_size(keys, "max_window_layers", &first, 0, INT32_MAX));
    return plx_made_window(keys->context, made, first, window);
}

/* Windows that begin at some layer and go on to the last can be said. */
static int write_qwen2(const json_t *ours, json_t *made)
{
    const json_t *layers = json_object_get(ours, "layers"), *window = NULL;
    size_t count = json_array_size(layers), first = count;
    for (size_t i = count; i-- > 0 && json_is_integer(json_object_get(json_array_get(layers, i), "window")); first = i)
        window = json_object_get(json_array_get(layers, i), "window");
    if (window == NULL) return json_object_set_new(made, "use_sliding_window", json_false());
    return json_object_set_new(made, "use_sliding_window", json_true()) |
           json_object_set_new(made, "sliding_window", json_integer(json_integer_value(window))) |
           json_object_set_new(made, "max_window_layers", json_integer((json_int_t)first));
}

static bool has_bias(const plx_store *store, const char *name) { return plx_store_find(store, name) != NULL; }

/* What a GGUF does not say its tensors show. */
static plx_status read_gguf(plx_keys *keys, const plx_store *store, json_t *made)
{
    plx_context *context = keys->context;
    PLX_TRY(plx_made_set(context, made, "attention_bias", json_boolean(has_bias(store, "blk.0.attn_q.bias"))));
    PLX_TRY(plx_made_set(context, made, "attention_out_bias", json_boolean(has_bias(store, "blk.0.attn_output.bias"))));
    return plx_made_set(context, made, "mlp_bias", json_boolean(has_bias(store, "blk.0.ffn_up.bias")));
}

const plx_family plx_family_llama = {
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .gguf = "llama",
    .activation = "silu",
    .names = llama_names,
    .keys = llama_keys,
    .gguf_keys = gguf_keys,
    .ignored = ignored,
    .gguf_ignored = gguf_ignored,
    .no_weights = no_weights,
    .read = read_llama,
    .read_gguf = read_gguf,
};

const plx_family plx_family_qwen2 = {
    .name = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .gguf = "qwen2",
    .activation = "silu",
    .names = qwen2_names,
    .keys = qwen2_keys,
    .gguf_keys = gguf_keys,
    .ignored = ignored,
    .gguf_ignored = gguf_ignored,
    .no_weights = no_weights,
    .read = read_qwen2,
    .read_gguf = read_gguf,
    .write = write_qwen2,
};
