/* tensorboard.h - event files that TensorBoard reads: scalars only. */
#ifndef PLX_TRAIN_TENSORBOARD_H
#define PLX_TRAIN_TENSORBOARD_H

#include "core/context.h"

typedef struct plx_tensorboard plx_tensorboard;

typedef struct plx_scalar { const char *tag; double value; } plx_scalar;
#define PLX_SCALARS_MAX 8

/* Makes a new event file in the directory. first_step > 1 (a resumed run) tells TensorBoard to forget what earlier
 * files say about that step and later ones. */
plx_status plx_tensorboard_open(plx_context *context, const char *directory, size_t first_step,
                                plx_tensorboard **board);
/* Appends one event with `count` (at most PLX_SCALARS_MAX) values, written through to the file. ERROR_FILE leaves the
 * file as it was before. */
plx_status plx_tensorboard_scalars(plx_tensorboard *board, size_t step, const plx_scalar *scalars, size_t count);
void plx_tensorboard_close(plx_tensorboard *board);

#endif
