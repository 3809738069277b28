/* gguf.c - what a GGUF says of its model, to a config.json of ours. */
#include "model/families/family.h"
#include "model/params_list.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* general.architecture and the rest do not stand in the section that is read here. */
static const char *const gguf_common_ignored[] = {"vocab_size", "rope.scaling.finetuned", NULL};

static plx_status gguf_must_be(plx_keys *keys, const char *key, double wanted)
{
    double value = wanted;
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL || node->kind == PLX_NODE_NULL) return PLX_OK;
    if (node->kind == PLX_NODE_BOOL)
        value = node->truth;
    else
        PLX_TRY(plx_keys_real(keys, key, &value, -1e9, 1e9));
    if (value == wanted) return PLX_OK;
    return plx_keys_fail(keys, key, "%g is not supported; %g is", value, wanted);
}

/* A scale of the frequencies for each pair, in a tensor of its own: that of Llama 3 with the numbers that all files
 * have, and no other. */
static plx_status read_frequencies(plx_keys *keys, plx_store *store, const plx_stored *stored, double theta,
                                   json_t *made)
{
    plx_context *context = keys->context;
    float factors[512];
    plx_rope rope = {.layout = PLX_ROPE_HALVES,
                     .pairs = stored->elements,
                     .theta = theta,
                     .scaling = {.kind = PLX_ROPE_LLAMA3, .original = 8192, .low = 1, .high = 4, .magnitude = 1}};
    if (!stored->readable || stored->packing != PLX_PACKED_F32 || stored->elements == 0 || stored->elements > 512)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED, "%s: tensor %s must hold 1 to 512 numbers of type F32",
                        plx_store_path(store), stored->name);
    PLX_TRY(plx_store_read(store, stored, 0, factors, stored->elements * sizeof *factors));
    rope.scaling.factor = factors[stored->elements - 1];
    bool same = rope.scaling.factor >= 1 && rope.scaling.factor < 1e6;
    for (size_t i = 0; i < stored->elements && same; i++) {
        double expected = pow(theta, -(double)i / (double)rope.pairs) / plx_rope_frequency(&rope, i);
        same = fabs(factors[i] - expected) <= 1e-4 * expected;
    }
    if (!same)
        return plx_fail(context, PLX_ERROR_UNSUPPORTED,
                        "%s: the factors in tensor %s are not those of Llama 3 (low 1, high 4, original 8192), the "
                        "only ones supported",
                        plx_store_path(store), stored->name);
    return plx_made_set(context, made, "rope_scaling", plx_rope_scaling_describe(&rope.scaling));
}

static plx_status gguf_scaling(plx_keys *keys, json_t *made)
{
    const char *type = NULL;
    double factor = 1, strength = 1, fast = 32, slow = 1;
    size_t original = 0;
    if (plx_keys_has(keys, "rope.scaling.type")) PLX_TRY(plx_keys_string(keys, "rope.scaling.type", &type));
    PLX_TRY(plx_keys_real(keys, "rope.scaling.factor", &factor, 0, 1e6));
    PLX_TRY(plx_keys_real(keys, "rope.scaling.attn_factor", &strength, 1e-3, 1e3));
    PLX_TRY(plx_keys_real(keys, "rope.scaling.yarn_beta_fast", &fast, 1e-3, 1e6));
    PLX_TRY(plx_keys_real(keys, "rope.scaling.yarn_beta_slow", &slow, 1e-3, 1e6));
    PLX_TRY(plx_keys_size(keys, "rope.scaling.original_context_length", &original, 1, (size_t)1 << 24));
    if (type == NULL) type = factor != 0 && factor != 1 ? "linear" : "none"; /* as llama.cpp reads it */
    if (strcmp(type, "yarn") != 0 && strength != 1)
        return plx_keys_fail(keys, "rope.scaling.attn_factor", "is supported with yarn alone, and the type is %.40s", type);
    if (strcmp(type, "none") == 0) return PLX_OK;
    if (strcmp(type, "linear") == 0)
        return plx_made_set(keys->context, made, "rope_scaling",
                            json_pack("{s:s, s:f}", "rope_type", type, "factor", factor));
    if (strcmp(type, "yarn") != 0)
        return plx_keys_fail(keys, "rope.scaling.type", "'%.40s' is not supported; none, linear and yarn are", type);
    if (original == 0) return plx_keys_fail(keys, NULL, "the key 'rope.scaling.original_context_length' is missing");
    return plx_made_set(keys->context, made, "rope_scaling",
                        json_pack("{s:s, s:f, s:f, s:f, s:f, s:I}", "rope_type", type, "factor", factor,
                                  "attention_factor", strength * (factor > 1 ? 0.1 * log(factor) + 1 : 1), "beta_fast",
                                  fast, "beta_slow", slow, "original_max_position_embeddings", (json_int_t)original));
}

static plx_status gguf_rope(plx_keys *keys, plx_store *store, json_t *made)
{
    double theta = 10000;
    size_t heads = (size_t)json_integer_value(json_object_get(made, "num_attention_heads"));
    size_t hidden = (size_t)json_integer_value(json_object_get(made, "hidden_size")), turned;
    size_t width = heads > 0 ? hidden / heads : 0, values;
    const plx_stored *frequencies = plx_store_find(store, "rope_freqs.weight");
    if (json_object_get(made, "head_dim") != NULL)
        width = (size_t)json_integer_value(json_object_get(made, "head_dim"));
    turned = values = width;
    PLX_TRY(plx_keys_size(keys, "attention.value_length", &values, 1, 65536));
    if (values != width)
        return plx_keys_fail(keys, "attention.value_length", "%zu is not supported beside keys of %zu", values, width);
    PLX_TRY(plx_keys_size(keys, "rope.dimension_count", &turned, 1, 65536));
    if (turned > width || turned % 2 != 0)
        return plx_keys_fail(keys, "rope.dimension_count", "%zu of a head of %zu cannot be turned", turned, width);
    if (turned != width)
        PLX_TRY(plx_made_set(keys->context, made, "partial_rotary_factor", json_real((double)turned / (double)width)));
    PLX_TRY(plx_keys_real(keys, "rope.freq_base", &theta, 1, 1e12));
    PLX_TRY(plx_made_set(keys->context, made, "rope_theta", json_real(theta)));
    PLX_TRY(gguf_scaling(keys, made));
    return frequencies == NULL ? PLX_OK : read_frequencies(keys, store, frequencies, theta, made);
}

/* The vocabulary is as large as the table of embeddings; without a head of its own that is the head. */
static plx_status gguf_vocabulary(plx_context *context, const plx_store *store, json_t *made)
{
    const plx_stored *embedding = plx_store_find(store, "token_embd.weight");
    if (embedding == NULL || embedding->rank != 2)
        return plx_fail(context, PLX_ERROR_FORMAT, "%s: there is no matrix token_embd.weight", plx_store_path(store));
    bool tied = plx_store_find(store, "output.weight") == NULL;
    static const char *const ids[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                         {"tokenizer.ggml.eos_token_id", "eos_token_id"}};
    for (size_t i = 0; i < 2; i++) {
        const plx_gguf_value *value = plx_gguf_find(plx_store_gguf(store), ids[i][0]);
        if (value == NULL || value->array || value->kind == PLX_GGUF_STRING) continue;
        PLX_TRY(plx_made_set(context, made, ids[i][1], json_integer((json_int_t)plx_gguf_number(value, 0))));
    }
    PLX_TRY(plx_made_set(context, made, "vocab_size", json_integer((json_int_t)embedding->shape[0])));
    return plx_made_set(context, made, "tie_word_embeddings", json_boolean(tied));
}

static plx_status fill_from_gguf(plx_context *context, const plx_family *family, plx_store *store,
                                 const plx_node *section, json_t *made)
{
    plx_keys keys;
    PLX_TRY(plx_keys_open(&keys, context, section, family->gguf));
    PLX_TRY(plx_family_copy_keys(&keys, family->gguf_keys, made));
    PLX_TRY(plx_family_set_layers(&keys, "block_count", made));
    PLX_TRY(gguf_vocabulary(context, store, made));
    PLX_TRY(gguf_must_be(&keys, "expert_count", 0));
    PLX_TRY(gguf_must_be(&keys, "expert_used_count", 0));
    PLX_TRY(gguf_must_be(&keys, "attention.causal", 1));
    PLX_TRY(gguf_must_be(&keys, "attention.sliding_window", 0));
    PLX_TRY(gguf_rope(&keys, store, made));
    PLX_TRY(family->read_gguf(&keys, store, made));
    return plx_family_refuse_unknown(&keys, family, gguf_common_ignored, family->gguf_ignored);
}

plx_status plx_family_read_gguf(plx_context *context, const plx_family *family, plx_store *store, json_t **made)
{
    plx_node *section = NULL;
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s.", family->gguf);
    PLX_TRY(plx_gguf_section(context, plx_store_gguf(store), prefix, &section));
    json_t *config = plx_family_new_config();
    plx_status status = fill_from_gguf(context, family, store, section, config);
    plx_node_free(context, section);
    return plx_family_finish(status, config, made);
}
