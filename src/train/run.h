/* run.h - a training run while it lasts, shared by run.c (its loop) and run_state.c (its checkpoints). */
#ifndef PLX_TRAIN_RUN_H
#define PLX_TRAIN_RUN_H

#include "train/logs.h"
#include "train/train.h"

typedef struct plx_training {
    plx_context *context;
    plx_recipe *recipe;
    const plx_run_options *options;
    plx_run_result *result;
    plx_model *model;
    plx_trainer *trainer;
    plx_data *data;
    plx_tokenizer *tokenizer;  /* NULL: no samples */
    plx_logs *logs;
    plx_batch *parts;          /* [accumulate] of a step */
    int lock;
    bool begun;                /* its recipe is written: what is in its directory stays */
    bool made;                 /* the directory was not there before */

    size_t saved;              /* step of `latest` */
    size_t evaluated, sampled; /* steps of the last evaluation and sample */
    double peak_flops;         /* measured, a second; 0: not yet, < 0: it could not be */
    double began;              /* plx_seconds() when this process's first step began */
    double seconds_before;     /* of training in earlier processes */
    size_t first;              /* steps done before this process */
    double step_seconds;       /* in plx_trainer_step and its data, this process */
    size_t step_tokens;
    double logged_seconds;     /* those figures at the last log line */
    size_t logged_tokens;
} plx_training;

/* An event of this kind, at the step that the run has reached. */
plx_run_event plx_training_event(const plx_training *run, plx_run_event_kind kind);
/* Gives it to whoever listens. */
void plx_training_tell(const plx_training *run, const plx_run_event *event);

/* Goes on from the checkpoint of this step. ERROR_VALUE when it is of another model, data or order of rows; warns when the
 * data's files hold something else by now. */
plx_status plx_training_restore(plx_training *run, size_t step);
/* Writes a checkpoint of the step reached, unless `latest` is that, makes `latest` name it and removes those beyond
 * train.keep. After a failure what `latest` named before is whole. */
plx_status plx_training_save(plx_training *run);

#endif
