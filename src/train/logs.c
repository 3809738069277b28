/* logs.c - metrics.jsonl: one JSON object a line.
 *
 *     a logged step   {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "seconds"}
 *     an evaluation   {"step", "valid_loss", and "valid_bits_per_byte" (text) or "valid_accuracy" (tasks)}
 *
 * tokens counts from the run's beginning, seconds too (resumed parts added up). Numbers have as many digits as it
 * takes to read back the same double. */
#include "train/logs.h"

#include "io/files.h"
#include "train/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define METRICS_MOST_BYTES ((size_t)1 << 30)

struct plx_logs {
    plx_context *context;
    plx_append_file metrics;
    plx_tensorboard *board;
    bool warned;
};

plx_status plx_append_open(plx_context *context, const char *path, plx_append_file *file)
{
    *file = (plx_append_file){.context = context, .descriptor = -1};
    file->path = plx_strdup(context, path);
    if (file->path == NULL) return PLX_ERROR_MEMORY;
    file->descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file->descriptor < 0) {
        plx_status status = plx_file_fail(context, errno, "write", path);
        plx_append_close(file);
        return status;
    }
    return PLX_OK;
}

plx_status plx_append_write(plx_append_file *file, const void *data, size_t bytes)
{
    const char *from = data;
    size_t left = bytes;
    const off_t before = lseek(file->descriptor, 0, SEEK_END);
    while (left > 0) {
        ssize_t written = write(file->descriptor, from, left);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
            int reason = written < 0 ? errno : ENOSPC;
            if (before >= 0 && left < bytes && ftruncate(file->descriptor, before) != 0) reason = errno;
            return plx_file_fail(file->context, reason, "write", file->path);
        }
        from += written;
        left -= (size_t)written;
    }
    return PLX_OK;
}

void plx_append_close(plx_append_file *file)
{
    if (file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
    plx_free(file->context, file->path);
    file->path = NULL;
}

/* Whether a line (without its newline) is a whole object of step 0 .. done. */
static bool line_is_kept(const char *line, size_t bytes, size_t done)
{
    json_t *object = json_loadb(line, bytes, 0, NULL);
    const json_t *step = json_object_get(object, "step");
    bool kept = json_is_integer(step) && json_integer_value(step) >= 0 && (size_t)json_integer_value(step) <= done;
    json_decref(object);
    return kept;
}

static plx_status cut_metrics(plx_context *context, const char *path, size_t done)
{
    char *data = NULL;
    size_t bytes = 0, kept = 0;
    if (!plx_file_exists(path)) return PLX_OK;
    PLX_TRY(plx_file_read(context, path, METRICS_MOST_BYTES, &data, &bytes));
    for (size_t from = 0; from < bytes;) {
        const char *end = memchr(data + from, '\n', bytes - from);
        if (end == NULL) break; /* half a line */
        size_t length = (size_t)(end - (data + from));
        if (line_is_kept(data + from, length, done)) {
            memmove(data + kept, data + from, length + 1);
            kept += length + 1;
        }
        from += length + 1;
    }
    plx_status status = kept == bytes ? PLX_OK : plx_file_write(context, path, data, kept);
    plx_free(context, data);
    return status;
}

plx_status plx_logs_open(plx_context *context, const char *out, size_t done, plx_logs **result)
{
    plx_status status = PLX_OK;
    char *path = NULL;
    plx_logs *logs = plx_alloc(context, sizeof *logs);
    if (logs == NULL) return PLX_ERROR_MEMORY;
    logs->context = context;
    logs->metrics.context = context;
    logs->metrics.descriptor = -1;
    path = plx_format(context, "%s/metrics.jsonl", out);
    if (path == NULL) { status = PLX_ERROR_MEMORY; goto done; }
    PLX_TRY_GOTO(status, done, cut_metrics(context, path, done));
    PLX_TRY_GOTO(status, done, plx_append_open(context, path, &logs->metrics));
    PLX_TRY_GOTO(status, done, plx_tensorboard_open(context, out, done + 1, &logs->board));
    *result = logs;
    logs = NULL;
done:
    plx_logs_close(logs);
    plx_free(context, path);
    return status;
}

void plx_logs_close(plx_logs *logs)
{
    if (logs == NULL) return;
    plx_append_close(&logs->metrics);
    plx_tensorboard_close(logs->board);
    plx_free(logs->context, logs);
}

/* ,"NAME":VALUE with the fewest digits that read back the same; null for what JSON has no number for. */
static void put_number(char *line, size_t size, const char *name, double value)
{
    size_t used = strlen(line);
    char number[40] = "null";
    for (int digits = 6; isfinite(value) && digits <= 17; digits++) {
        snprintf(number, sizeof number, "%.*g", digits, value);
        if (strtod(number, NULL) == value) break;
    }
    snprintf(line + used, size - used, ",\"%s\":%s", name, number);
}

/* Writes the line and the scalars; only the first failure is told. */
static void write_logs(plx_logs *logs, char *line, size_t size, size_t step, const plx_scalar *scalars, size_t count)
{
    size_t used = strlen(line);
    snprintf(line + used, size - used, "}\n");
    plx_status status = plx_append_write(&logs->metrics, line, strlen(line));
    if (status == PLX_OK) status = plx_tensorboard_scalars(logs->board, step, scalars, count);
    if (status != PLX_OK && !logs->warned) {
        plx_log(logs->context, PLX_LOG_WARNING, "%s: the log is incomplete, training goes on",
                plx_context_error(logs->context)->message);
        logs->warned = true;
    }
}

void plx_logs_step(plx_logs *logs, const plx_run_event *event)
{
    char line[512];
    const plx_scalar scalars[] = {
        {"loss", event->loss}, {"lr", event->lr}, {"grad_norm", event->grad_norm},
        {"tokens_per_second", event->tokens_per_second},
    };
    snprintf(line, sizeof line, "{\"step\":%zu,\"tokens\":%zu", event->step, event->tokens);
    put_number(line, sizeof line, "loss", event->loss);
    put_number(line, sizeof line, "lr", event->lr);
    put_number(line, sizeof line, "grad_norm", event->grad_norm);
    put_number(line, sizeof line, "tokens_per_second", event->tokens_per_second);
    put_number(line, sizeof line, "seconds", event->seconds);
    write_logs(logs, line, sizeof line, event->step, scalars, sizeof scalars / sizeof scalars[0]);
}

void plx_logs_evaluation(plx_logs *logs, const plx_run_event *event)
{
    char line[512];
    plx_scalar scalars[2] = {{"valid/loss", event->valid_loss}, {NULL, 0}};
    size_t count = 1;
    snprintf(line, sizeof line, "{\"step\":%zu", event->step);
    put_number(line, sizeof line, "valid_loss", event->valid_loss);
    if (event->valid_bits_per_byte >= 0) {
        put_number(line, sizeof line, "valid_bits_per_byte", event->valid_bits_per_byte);
        scalars[count++] = (plx_scalar){"valid/bits_per_byte", event->valid_bits_per_byte};
    } else if (event->valid_accuracy >= 0) {
        put_number(line, sizeof line, "valid_accuracy", event->valid_accuracy);
        scalars[count++] = (plx_scalar){"valid/accuracy", event->valid_accuracy};
    }
    write_logs(logs, line, sizeof line, event->step, scalars, count);
}
