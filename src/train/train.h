/* train.h - the trainer (one optimiser step), checkpoints with optimiser state, recipes and the run loop. */
#ifndef PLX_TRAIN_TRAIN_H
#define PLX_TRAIN_TRAIN_H

#include "data/data.h"
#include "model/model.h"
#include "model/passes.h"

struct plx_trainer {
    plx_model *model;
    plx_train_options options;
    size_t rows, length;
    size_t step;          /* done */
    plx_arena arena;
    plx_loss_pass pass;   /* its arrays hold rows * length tokens */
    size_t tensors;       /* that are trained, and the arrays of so many: */
    const plx_param **trained;
    plx_squares_tensor *squares;
    plx_adamw_tensor *updates;
    double *norms;        /* device */
    double *host_norms;
};
/* What the trainer's passes are asked to do (PLX_PASS_...). */
int plx_train_pass_flags(const plx_train_options *options);
/* The learning rate of step s (1-based). */
double plx_schedule_lr(const plx_train_options *options, size_t step);

/* A checkpoint directory: a model directory (plx_model_save's files) with optimizer.safetensors (NAME.moment1,
 * NAME.moment2) and trainer.json beside them. */
plx_status plx_checkpoint_save(plx_trainer *trainer, const char *directory, const json_t *run_state);
/* Puts weights, moments and step back into the trainer; *run_state is a new reference. */
plx_status plx_checkpoint_load(plx_trainer *trainer, const char *directory, json_t **run_state);
/* Only the run's state. */
plx_status plx_checkpoint_read_state(plx_context *context, const char *directory, json_t **run_state);

struct plx_recipe {
    plx_context *context;
    char *path;
    plx_node *root;          /* with overrides applied */
    plx_data_description data;
    char *config_text;       /* resolved config.json */
    char *out;
    plx_train_options options;
    size_t batch_size, accumulate, eval_every, eval_rows, save_every, sample_every, log_every, keep;
    const char *sample_prompt;    /* in root */
    plx_generate_options sample;  /* of sampling during the run */
    const plx_node *freeze;       /* in root: the list of patterns, or NULL */
    const char *from;             /* in root: the model that the run begins with; NULL: fresh weights */
    plx_weights weights;          /* how those of `from` are held */
    double epochs;                /* 0: options.steps counts */
    plx_node *from_config;        /* its config.json */
    bool parameters_given, lr_given;
    bool tokenizer_of_from;       /* data.tokenizer was left out: it is that of `from`, wherever its files lie by now */
    unsigned parameters;          /* what is trained: PLX_TRAIN_.. together; 0: everything */
    uint64_t seed;
};
enum { PLX_TRAIN_NEW = 1, PLX_TRAIN_ADAPTER = 2 };
/* Of a recipe that a program wrote, as JSON; `path` stands for the file in messages, which name no lines. text NULL:
 * the YAML file at path. */
plx_status plx_recipe_parse(plx_context *context, const char *path, const char *text, const char *const *overrides,
                            size_t count, plx_recipe **recipe);
/* The model that the recipe's run trains, with the tokenizer of its data and the tensors marked that move; saved: a
 * checkpoint's weights will follow. *model is the caller's also after an error (NULL, or to be freed). */
plx_status plx_recipe_model(const plx_recipe *recipe, bool saved, plx_model **model);
/* The same model without memory for its weights. */
plx_status plx_recipe_outline(const plx_recipe *recipe, plx_model **model);
/* A section's node; NULL when it is absent or empty. */
const plx_node *plx_recipe_section(const plx_recipe *recipe, const char *name);
/* Resolves train.epochs, where the recipe has it, to options.steps. ERROR_VALUE for data that have no end. */
plx_status plx_recipe_count_epochs(plx_recipe *recipe, const plx_data *data);
/* The recipe with every default resolved, itself a recipe that gives the same run; a new reference, NULL when memory is
 * short. */
json_t *plx_recipe_describe(const plx_recipe *recipe);
/* Writes it to OUT/recipe.yaml. */
plx_status plx_recipe_write(const plx_recipe *recipe);

#endif
