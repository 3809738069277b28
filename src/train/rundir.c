#include "train/rundir.h"

#include "io/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* 8 digits, more from step 10^8 on. Eighteen are within size_t. */
enum { STEP_DIGITS_LEAST = 8, STEP_DIGITS_MOST = 18 };

/* Reads "step-NNNNNNNN"; *rest is what follows it. */
static bool parse_name(const char *name, size_t *step, const char **rest)
{
    static const char prefix[] = "step-";
    if (strncmp(name, prefix, strlen(prefix)) != 0) return false;
    const char *digits = name + strlen(prefix);
    size_t count = strspn(digits, "0123456789");
    if (count < STEP_DIGITS_LEAST || count > STEP_DIGITS_MOST) return false;
    *step = 0;
    for (size_t i = 0; i < count; i++) *step = *step * 10 + (size_t)(digits[i] - '0');
    *rest = digits + count;
    return true;
}

plx_status plx_rundir_exists(plx_context *context, const char *out, bool *exists)
{
    static const char *const names[] = {"recipe.yaml", "latest", "checkpoints"};
    *exists = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !*exists; i++) {
        char *path = plx_format(context, "%s/%s", out, names[i]);
        if (path == NULL) return PLX_ERROR_MEMORY;
        *exists = plx_file_exists(path);
        plx_free(context, path);
    }
    return PLX_OK;
}

plx_status plx_rundir_lock(plx_context *context, const char *out, int *lock)
{
    plx_status status = PLX_OK;
    *lock = -1;
    PLX_TRY(plx_directory_make(context, out));
    char *path = plx_format(context, "%s/lock", out);
    if (path == NULL) return PLX_ERROR_MEMORY;
    int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct stat file;
    bool taken = false;
    if (descriptor < 0) {
        status = plx_file_fail(context, errno, "write", path);
    } else if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
        *lock = descriptor;
        taken = fstat(descriptor, &file) == 0 && file.st_nlink == 0; /* opened before who held it removed it */
    } else {
        taken = errno == EWOULDBLOCK;
    }
    if (taken) {
        status = plx_fail(context, PLX_ERROR_EXISTS,
                          "another process is training in %s: wait for it, or choose another out", out);
    }
    if (status != PLX_OK) *lock = -1;
    if (descriptor >= 0 && *lock < 0) close(descriptor);
    plx_free(context, path);
    return status;
}

void plx_rundir_leave(plx_context *context, const char *out, bool made)
{
    char *lock = plx_format(context, "%s/lock", out), *data = plx_format(context, "%s/data", out);
    if (lock != NULL && data != NULL && unlink(lock) == 0) {
        rmdir(data); /* fails, as it should, where something is in it */
        if (made) rmdir(out);
    }
    plx_free(context, lock);
    plx_free(context, data);
}

plx_status plx_rundir_latest(plx_context *context, const char *out, size_t *step)
{
    plx_status status = PLX_OK;
    char *path = plx_format(context, "%s/latest", out), *text = NULL;
    const char *rest = "";
    size_t bytes = 0;
    *step = 0;
    if (path == NULL) return PLX_ERROR_MEMORY;
    if (plx_file_exists(path)) {
        status = plx_file_read(context, path, 256, &text, &bytes);
        bool named = status == PLX_OK && parse_name(text, step, &rest) && *step > 0;
        if (status == PLX_OK && !(named && (*rest == '\0' || strcmp(rest, "\n") == 0))) {
            *step = 0;
            status = plx_fail(context, PLX_ERROR_FORMAT, "%s does not hold a checkpoint's name (step-NNNNNNNN)", path);
        }
    }
    plx_free(context, text);
    plx_free(context, path);
    return status;
}

char *plx_rundir_checkpoint(plx_context *context, const char *out, size_t step)
{
    return plx_format(context, "%s/checkpoints/step-%08zu", out, step);
}

plx_status plx_rundir_set_latest(plx_context *context, const char *out, size_t step)
{
    char name[64];
    char *path = plx_format(context, "%s/latest", out);
    if (path == NULL) return PLX_ERROR_MEMORY;
    int length = snprintf(name, sizeof name, "step-%08zu\n", step);
    plx_status status = plx_file_write(context, path, name, (size_t)length);
    plx_free(context, path);
    return status;
}

/* A pass over OUT/checkpoints: `visit` is told each entry that belongs to a checkpoint, complete or not. */
typedef plx_status (*checkpoint_visit)(void *user, const char *path, size_t step, bool complete);

static plx_status visit_checkpoints(plx_context *context, const char *out, checkpoint_visit visit, void *user)
{
    plx_status status = PLX_OK;
    char *path = plx_format(context, "%s/checkpoints", out);
    if (path == NULL) return PLX_ERROR_MEMORY;
    DIR *directory = opendir(path);
    if (directory == NULL && errno != ENOENT) {
        status = plx_file_fail(context, errno, "read", path);
    }
    for (struct dirent *entry; status == PLX_OK && directory != NULL && (entry = readdir(directory)) != NULL;) {
        size_t step;
        const char *rest;
        if (!parse_name(entry->d_name, &step, &rest)) continue;
        bool complete = *rest == '\0';
        if (!complete && strncmp(rest, ".tmp-", 5) != 0) continue;
        char *full = plx_format(context, "%s/%s", path, entry->d_name);
        status = full == NULL ? PLX_ERROR_MEMORY : visit(user, full, step, complete);
        plx_free(context, full);
    }
    if (directory != NULL) closedir(directory);
    plx_free(context, path);
    return status;
}

typedef struct limits {
    plx_context *context;
    size_t least, most; /* complete checkpoints of these steps stay */
} limits;

static plx_status remove_outside(void *user, const char *path, size_t step, bool complete)
{
    const limits *stay = user;
    if (!complete) return plx_directory_remove(stay->context, path);
    if (step >= stay->least && step <= stay->most) return PLX_OK;
    /* Out of the way first: a removal that is interrupted must not leave half a checkpoint under a whole one's name. */
    char *aside = plx_format(stay->context, "%s.tmp-%ld", path, (long)getpid());
    if (aside == NULL) return PLX_ERROR_MEMORY;
    plx_status status = rename(path, aside) == 0 ? plx_directory_remove(stay->context, aside)
                                                 : plx_file_fail(stay->context, errno, "remove", path);
    plx_free(stay->context, aside);
    return status;
}

plx_status plx_rundir_clean(plx_context *context, const char *out, size_t step)
{
    limits stay = {context, 0, step};
    return visit_checkpoints(context, out, remove_outside, &stay);
}

/* The newest steps below `under`, newest first. */
typedef struct newest { size_t under, found; bool any; } newest;

static plx_status find_newest(void *user, const char *path, size_t step, bool complete)
{
    newest *search = user;
    (void)path;
    if (complete && step < search->under && (!search->any || step > search->found)) {
        search->found = step;
        search->any = true;
    }
    return PLX_OK;
}

plx_status plx_rundir_newest(plx_context *context, const char *out, size_t *step)
{
    newest search = {.under = SIZE_MAX};
    plx_status status = visit_checkpoints(context, out, find_newest, &search);
    *step = search.found;
    return status;
}

plx_status plx_rundir_prune(plx_context *context, const char *out, size_t latest, size_t keep)
{
    limits stay = {context, latest, SIZE_MAX};
    for (size_t kept = 1; kept < keep; kept++) {
        newest search = {.under = stay.least};
        PLX_TRY(visit_checkpoints(context, out, find_newest, &search));
        if (!search.any) return PLX_OK;
        stay.least = search.found;
    }
    return visit_checkpoints(context, out, remove_outside, &stay);
}
