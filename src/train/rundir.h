/* rundir.h - the directory of a run and who may write in it.
 *
 *     OUT/recipe.yaml                  the resolved recipe; its presence says that a run has begun here
 *     OUT/checkpoints/step-NNNNNNNN/   models with optimiser state (train/train.h), each complete
 *     OUT/latest                       the newest one's name, replaced as a whole after its directory is complete
 *     OUT/metrics.jsonl, OUT/events.out.tfevents.*   logs (train/logs.h)
 *     OUT/data/                        token files, made anew when missing
 *     OUT/lock                         held while a process trains here */
#ifndef PLX_TRAIN_RUNDIR_H
#define PLX_TRAIN_RUNDIR_H

#include "core/context.h"

/* Whether a run has begun in this directory. */
plx_status plx_rundir_exists(plx_context *context, const char *out, bool *exists);
/* Makes the directory if needed and takes its lock, until the descriptor is closed or the process ends. ERROR_EXISTS
 * when another process holds it. *lock is -1 where the file system has no locks. */
plx_status plx_rundir_lock(plx_context *context, const char *out, int *lock);
/* While the lock is held: removes what a run that never began has made, which is the lock, OUT/data if it is empty and,
 * made: plx_rundir_lock made it, OUT if nothing else is in it. */
void plx_rundir_leave(plx_context *context, const char *out, bool made);
/* The step that `latest` names, 0 when there is none. ERROR_FORMAT when it is not a checkpoint's name. */
plx_status plx_rundir_latest(plx_context *context, const char *out, size_t *step);
/* The newest complete checkpoint's step, whatever `latest` names; 0 when there is none. */
plx_status plx_rundir_newest(plx_context *context, const char *out, size_t *step);
/* OUT/checkpoints/step-NNNNNNNN, freed with plx_free; NULL when memory is short. */
char *plx_rundir_checkpoint(plx_context *context, const char *out, size_t step);
/* Makes `latest` name this step's checkpoint. */
plx_status plx_rundir_set_latest(plx_context *context, const char *out, size_t step);
/* Removes what a killed process left: half-written checkpoints, and complete ones beyond `step` that `latest` never
 * named. */
plx_status plx_rundir_clean(plx_context *context, const char *out, size_t step);
/* Removes all but the newest `keep` checkpoints up to `latest`, which always stays. */
plx_status plx_rundir_prune(plx_context *context, const char *out, size_t latest, size_t keep);

#endif
