/* family.h - the models that other programs write: what a family calls its tensors and its configuration.
 *
 * A family is one file with tables of names and a short recipe, and one line of plx_families. Nothing is computed
 * here: a family's configuration is turned into a config.json of Plexus's own, and its tensors into ours, row by row;
 * the model is then the one model there is. What a file asks for and Plexus does not have is refused by name. */
#ifndef PLX_MODEL_FAMILIES_FAMILY_H
#define PLX_MODEL_FAMILIES_FAMILY_H

#include "io/store.h"
#include "model/model.h"

/* Where row r of one of our tensors lies in theirs; h is its head, i its row in the head (r = h head_dim + i). */
typedef enum plx_rows {
    PLX_ROWS_SAME,
    PLX_ROWS_FUSED_BY_HEAD, /* q, k, v of one head, then of the next: (3 h + part) head_dim + i */
    PLX_ROWS_FUSED_BY_PART, /* all q, all k, all v: part * heads * head_dim + r */
    PLX_ROWS_INTERLEAVED    /* the two halves of a head, which RoPE pairs, taken in turns: i = s head_dim/2 + j lies at
                               h head_dim + 2 j + s */
} plx_rows;

/* A tensor's name without its ".weight" or ".bias", # standing for the layer's number. NULL: the files have none. */
typedef struct plx_family_name {
    const char *ours, *directory, *gguf;
    plx_rows directory_rows, gguf_rows;
    int part;
} plx_family_name;

/* A key that is copied from their configuration into ours. */
typedef struct plx_family_key {
    const char *theirs, *ours;
    const char *otherwise; /* the value, as JSON, where the key is absent or null; NULL: it must be there; "": ours is
                              left out */
} plx_family_key;

typedef struct plx_family {
    const char *name;             /* model_type of config.json */
    const char *architecture;     /* of config.json */
    const char *gguf;             /* general.architecture */
    const char *activation;       /* the hidden_act that the family has */
    const plx_family_name *names; /* each table ends with {0} or NULL */
    const plx_family_key *keys, *gguf_keys;
    const char *const *ignored; /* keys of config.json that change nothing that is computed here */
    const char *const *gguf_ignored;
    const char *const *no_weights; /* shell patterns of tensors that hold none */
    /* The rest of reading, beyond the tables: fills `made`, a config.json of ours. May be NULL. */
    plx_status (*read)(plx_keys *keys, json_t *made);
    plx_status (*read_gguf)(plx_keys *keys, const plx_store *store, json_t *made);
    /* The rest of writing: from a config of ours to theirs; 0, or -1 when memory is short. What it leaves out or says
     * wrongly is noticed: what is written must read back as the same. May be NULL. */
    int (*write)(const json_t *ours, json_t *made);
} plx_family;

extern const plx_family *const plx_families[];       /* ended by NULL */
const plx_family *plx_family_find(const char *name); /* by model_type; NULL when unknown */
const plx_family *plx_family_find_gguf(const char *architecture);
/* "llama, qwen2, gpt_neox" */
const char *plx_family_list(char *text, size_t bytes, bool gguf);

/* Their name for a tensor of ours, and how its rows lie; false when they have none. */
bool plx_family_tensor(const plx_family *family, bool gguf, const char *ours, char theirs[160], plx_rows *rows,
                       int *part);
/* Where row `row` of ours lies. */
size_t plx_rows_place(plx_rows rows, int part, const plx_layer_shape *shape, size_t row);

/* A config.json of ours (to be json_decref'd), from theirs. */
plx_status plx_family_read_config(plx_context *context, const plx_family *family, const plx_node *root, json_t **made);
plx_status plx_family_read_gguf(plx_context *context, const plx_family *family, plx_store *store, json_t **made);
/* The tree of a config of ours; takes `made` over. `name` stands for the file in messages. */
plx_status plx_family_tree(plx_context *context, const char *name, json_t *made, plx_node **tree);
/* A config read from theirs. */
plx_status plx_family_parse(plx_context *context, const plx_family *family, const plx_node *root, plx_config *config);
/* Theirs, from ours; ERROR_UNSUPPORTED naming what the family cannot say. */
plx_status plx_family_write_config(plx_context *context, const plx_family *family, const plx_config *config,
                                   json_t **made);

/* ---- for recipes, and what reads them ---- */

/* A config of ours with nothing in it yet; NULL when memory is short, which the first plx_made_set reports. */
json_t *plx_family_new_config(void);
/* *made = config, or NULL and config gone where status is an error; returns status. */
plx_status plx_family_finish(plx_status status, json_t *config, json_t **made);
/* Copies a table's keys; what they may be is checked when ours is parsed. */
plx_status plx_family_copy_keys(plx_keys *keys, const plx_family_key *table, json_t *made);
/* As many layers of attention as the key says. */
plx_status plx_family_set_layers(plx_keys *keys, const char *key, json_t *made);
/* Every key that says something must have been asked for, or be in one of the two lists: one that nobody knows may
 * change what is computed. */
plx_status plx_family_refuse_unknown(plx_keys *keys, const plx_family *family, const char *const *ignored,
                                     const char *const *more);

/* Sets a key to a fresh value (NULL: memory was short). */
plx_status plx_made_set(plx_context *context, json_t *made, const char *key, json_t *value);
/* Gives the layers of `made`, all attention, the window where `windowed` (index >= first) says so. */
plx_status plx_made_window(plx_context *context, json_t *made, size_t first, size_t window);

/* ---- what a path holds ---- */

typedef struct plx_source {
    plx_context *context;
    char *path; /* the model's directory, or the GGUF */
    bool gguf;
    const plx_family *family; /* NULL: Plexus's own directory */
    plx_node *config;         /* a config.json of ours */
    plx_store *store;         /* of a directory: opened by plx_source_open_tensors */
    bool keep_packed;         /* plx_source_read leaves packed tensors, which are never trained, as they are */
} plx_source;

/* A model's directory, a run's (by `latest`), or a .gguf file. Reads what describes the model, no weights. Closed with
 * plx_source_close, also after failure. */
plx_status plx_source_open(plx_context *context, const char *path, plx_source *source);
plx_status plx_source_open_tensors(plx_source *source);
void plx_source_close(plx_source *source);

/* A tensor of ours as it lies in the files. */
typedef struct plx_source_tensor {
    const plx_stored *stored;
    plx_rows rows;
    int part;
    const plx_layer_shape *shape; /* of the layer; NULL for SAME */
    size_t count, row_bytes;      /* rows of ours, and a row's bytes as stored; a vector whose rows stay is one row */
} plx_source_tensor;
/* Errors name a tensor that is missing, of another shape, or of a type that is not read. */
plx_status plx_source_find(plx_source *source, const plx_model *model, const plx_param *param,
                           plx_source_tensor *tensor);
/* Rows [first, first + count) as stored, packed forms and all, in our order: row_bytes each. For whoever multiplies by
 * packed weights without unpacking them. */
plx_status plx_source_read_rows(plx_source *source, const plx_source_tensor *tensor, size_t first, size_t count,
                                void *rows);
/* Fills the tensors of a model that have memory; a tensor that the model has no place for is an error. */
plx_status plx_source_read(plx_source *source, plx_model *model);

#endif
