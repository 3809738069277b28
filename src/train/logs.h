/* logs.h - what a run leaves for people and tools to read: metrics.jsonl and TensorBoard's event files.
 *
 * Logs are secondary to the training: when one cannot be written (a full disk), the first failure is a warning through
 * the context's log and the run goes on. */
#ifndef PLX_TRAIN_LOGS_H
#define PLX_TRAIN_LOGS_H

#include "core/context.h"

/* A file that only grows, by whole pieces: a piece that could not be written fully is taken back. */
typedef struct plx_append_file {
    plx_context *context;
    char *path;
    int descriptor;      /* -1: not open */
} plx_append_file;
plx_status plx_append_open(plx_context *context, const char *path, plx_append_file *file);
plx_status plx_append_write(plx_append_file *file, const void *data, size_t bytes);
void plx_append_close(plx_append_file *file);

typedef struct plx_logs plx_logs;
/* Opens OUT/metrics.jsonl and a new event file to go on after step `done` (0: a new run). Lines of metrics.jsonl beyond
 * that step, and half-written ones, are cut off. */
plx_status plx_logs_open(plx_context *context, const char *out, size_t done, plx_logs **logs);
void plx_logs_close(plx_logs *logs);
/* The numbers of a PLX_RUN_STEP event. */
void plx_logs_step(plx_logs *logs, const plx_run_event *event);
/* The numbers of a PLX_RUN_EVALUATED event. */
void plx_logs_evaluation(plx_logs *logs, const plx_run_event *event);

#endif
