/* bench_model.h - cases of whole layers and models, for any mixer; see bench_model.c. */
#ifndef PLX_LAB_BENCH_MODEL_H
#define PLX_LAB_BENCH_MODEL_H

#include "kernels/bench.h"

typedef enum plx_bench_model_part {
    PLX_BENCH_LAYER_FORWARD,
    PLX_BENCH_LAYER_BACKWARD,
    PLX_BENCH_STEP,
    PLX_BENCH_TRAIN,
    PLX_BENCH_PREFILL,
    PLX_BENCH_DECODE,
    PLX_BENCH_MODEL_PARTS
} plx_bench_model_part;

/* The case GROUP.PART ("train.step") with layers of that mixer, whose name must outlive it; freed with plx_free. */
plx_status plx_bench_model_case(plx_context *context, plx_bench_model_part part, const char *group, const char *mixer,
                                plx_bench_case **made);

#endif
