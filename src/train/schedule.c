/* schedule.c - the learning rate of each step, and the options' defaults. */
#include "train/train.h"

#include <math.h>

plx_train_options plx_train_defaults(void)
{
    return (plx_train_options){
        .steps = 600, .lr = 3e-3, .warmup_steps = 50, .schedule = PLX_SCHEDULE_COSINE, .min_lr_ratio = 0.1,
        .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .grad_clip = 1.0,
    };
}

/* The part of the way from step `from` (0) to step `to` (1). */
static double way(size_t step, size_t from, size_t to)
{
    if (step <= from) return 0.0;
    return step >= to ? 1.0 : (double)(step - from) / (double)(to - from);
}

double plx_schedule_lr(const plx_train_options *options, size_t step)
{
    const size_t warmup = options->warmup_steps, steps = options->steps;
    const double least = options->min_lr_ratio;
    double factor = 1.0;

    if (step <= warmup) return options->lr * (double)step / (double)(warmup > 0 ? warmup : 1);
    switch (options->schedule) {
    case PLX_SCHEDULE_COSINE:
        factor = least + (1.0 - least) * 0.5 * (1.0 + cos(M_PI * way(step, warmup, steps)));
        break;
    case PLX_SCHEDULE_WSD: {
        /* No further back than the warm-up's end: lr must not have begun to fall when it gets there. */
        const size_t rest = steps > warmup ? steps - warmup : 0;
        const size_t decay = options->decay_steps < rest ? options->decay_steps : rest;
        factor = 1.0 - (1.0 - least) * (decay > 0 ? way(step, steps - decay, steps) : 0.0);
        break;
    }
    case PLX_SCHEDULE_CONSTANT:
        break;
    }
    return options->lr * factor;
}
