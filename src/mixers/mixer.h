/* mixer.h - THE mixer contract.
 *
 * A mixer turns x[B,T,D] into y[B,T,D], causally and within documents. It is one folder and one line of
 * registry.def; nothing else in the tree names it. Model, checkpoints, recipes, plan, decoding, tests and the
 * command line find it through plx_mixers[]. docs/write-a-mixer.md adds one step by step.
 *
 * A mixer keeps one struct a layer ("layer", of layer_size bytes, zeroed): its parsed options, its linears and
 * params, and the pointers to what its last forward kept. Memory is asked for by plx_kept (needed by backward) and
 * plx_scratch; the plan, the bytes and the flops come from running the same functions dry (model/run.h), so there is
 * nothing to declare. Backward is called once for each forward with run->keep, in reverse order of layers, with
 * the saved memory intact; with recomputation the model simply calls forward again before it. */
#ifndef PLX_MIXERS_MIXER_H
#define PLX_MIXERS_MIXER_H

#include "core/node.h"
#include "model/params.h"

/* How the block around the mixer is built. */
typedef enum plx_block_form {
    PLX_BLOCK_PRE_NORM, /* h += mixer(norm(h)); h += ffn(norm(h)) */
    PLX_BLOCK_PAPER     /* u = dropout(layernorm(mixer(h))); h = layernorm(u + ffn(u)): no residual round the mixer */
} plx_block_form;

/* One tensor of decoding state: `width` elements a token, of the tokens that later ones may look back at. */
typedef struct plx_state_part {
    size_t width;
    size_t keep; /* a query may need this many tokens before itself; 0: all (of the document) */
    bool packable; /* only attention's operations read it: they take packed histories */
} plx_state_part;
#define PLX_STATE_PARTS_MAX 64

typedef struct plx_mixer {
    const char *name;     /* the "mixer" key of config.json */
    const char *summary;  /* one line for help and info */
    size_t layer_size;
    /* Reads the mixer's own keys (the caller has read "mixer", and closes the reader) and checks them against the
     * shape. May take memory with plx_alloc, freed by `release`. */
    plx_status (*parse)(plx_keys *keys, const plx_layer_shape *shape, void *layer);
    void (*release)(plx_context *context, void *layer); /* may be NULL */
    /* Writes every key that parse reads, resolved, into the layer's object of config.json. */
    int (*describe)(const void *layer, json_t *object); /* 0, or -1 when memory is short (as jansson) */
    /* Defines tensors ("mixer.q_proj.weight") and RoPE tables. */
    plx_status (*params)(plx_params *params, const plx_layer_shape *shape, void *layer);
    /* y = mixer(x). x stays valid until backward. */
    plx_status (*forward)(plx_run *run, void *layer, const void *x, void *y);
    /* dx = gradient for x given dy (overwritten, may not alias dy); gradients of params accumulate. x as in forward. */
    plx_status (*backward)(plx_run *run, void *layer, const void *x, const void *dy, void *dx);
    /* As forward for the new tokens of a step: run->session holds the earlier ones (plx_state_append). Equal to forward
     * over the whole sequence, within rounding. Often the same function as forward. */
    plx_status (*step)(plx_run *run, void *layer, const void *x, void *y);
    /* Fills parts (at most PLX_STATE_PARTS_MAX), returns their number. */
    size_t (*state)(const void *layer, plx_state_part *parts);
    plx_block_form (*block)(const void *layer); /* NULL: PLX_BLOCK_PRE_NORM */
    /* Retrofit. `object` is the new layer's object of config.json with the options asked for, `old` that of the layer it
     * replaces, of the given shape. Fills in the options left open so that the layer begins as exactly the old one;
     * *why: NULL when it then does (with the tensors of begin_zero set to 0), else the reason why not. 0, or -1 when
     * memory is short. NULL: it never does. */
    int (*begin_as)(json_t *object, const json_t *old, const plx_layer_shape *shape, const char **why);
    const char *const *begin_zero; /* patterns of names, "mixer.k2_proj.*", ended by NULL */
    const plx_op *const *ops;    /* own operations, ended by NULL; may be NULL */
    /* Layer objects (JSON) that together use every option, for the tests that loop over the registry. They are run at
     * hidden 24, 4 heads, head_dim 6 unless the object says otherwise (it may hold any per-layer key). Ended by NULL.
     */
    const char *const *cases;
    /* What `plexus bench` measures of the mixer beside its whole layer (kernels/bench.h), ended by NULL; may be NULL. A
     * case named NAME.forward or NAME.backward stands for the layer, where its operations alone are of interest. */
    const struct plx_bench_case *const *bench;
} plx_mixer;

extern const plx_mixer *const plx_mixers[]; /* ended by NULL */
const plx_mixer *plx_mixer_find(const char *name); /* NULL when unknown */
#define PLX_MIXER_NAMES 256
void plx_mixer_names(char names[PLX_MIXER_NAMES]); /* of all, for messages: "attention, nexus" */

#endif
