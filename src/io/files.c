/* files.c - files and directories that are complete or not there. */
#include "io/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLX_WRITER_BUFFER ((size_t)1 << 18)
#define PLX_DIRECTORY_DEPTH 32 /* deeper trees were not made by Plexus */

static const char *remedy(int number)
{
    switch (number) {
    case ENOENT: return "check the name";
    case EACCES:
    case EPERM: return "change its permissions or choose another place";
    case EROFS: return "choose a place that can be written to";
    case ENOSPC:
    case EDQUOT: return "free some space or choose another disk";
    case EFBIG: return "raise the limit on the size of files or choose another disk";
    case EISDIR: return "name a file, not a directory";
    case ENOTDIR: return "a part of the path is not a directory";
    case EMFILE:
    case ENFILE: return "too many files are open: close some programs";
    case EIO: return "the disk reports a fault";
    default: return "try another place";
    }
}

plx_status plx_file_fail(plx_context *context, int number, const char *action, const char *path)
{
    char reason[128];
    return plx_fail(context, PLX_ERROR_FILE, "cannot %s '%s': %s; %s", action, path,
                    strerror_r(number, reason, sizeof reason), remedy(number));
}

/* read() until `bytes` are there or the file ends; -1 with errno on failure. offset < 0: from where the file stands. */
static ssize_t read_fully(int file, int64_t offset, char *data, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = offset < 0 ? read(file, data + done, bytes - done)
                                 : pread(file, data + done, bytes - done, (off_t)(offset + (int64_t)done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

plx_status plx_file_read_at(plx_context *context, int file, const char *path, uint64_t offset, void *data, size_t bytes)
{
    if (offset > (uint64_t)INT64_MAX - bytes)
        return plx_fail(context, PLX_ERROR_FORMAT, "'%s': position %llu is beyond any file", path,
                        (unsigned long long)offset);
    ssize_t got = read_fully(file, (int64_t)offset, data, bytes);
    if (got < 0) return plx_file_fail(context, errno, "read", path);
    if ((size_t)got < bytes)
        return plx_fail(
            context, PLX_ERROR_FORMAT,
            "'%s' ends at byte %llu where %zu more were expected: it is cut off or was changed while in use", path,
            (unsigned long long)(offset + (uint64_t)got), bytes - (size_t)got);
    return PLX_OK;
}

plx_status plx_file_open(plx_context *context, const char *path, int *file, uint64_t *size)
{
    struct stat about;
    *file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* does not wait for a pipe's writer */
    if (*file < 0) return plx_file_fail(context, errno, "open", path);
    plx_status status = PLX_OK;
    if (fstat(*file, &about) != 0)
        status = plx_file_fail(context, errno, "read", path);
    else if (S_ISDIR(about.st_mode))
        status = plx_file_fail(context, EISDIR, "read", path);
    else if (!S_ISREG(about.st_mode))
        status = plx_fail(context, PLX_ERROR_FILE, "'%s' is a pipe or a device: a file is wanted here", path);
    if (status == PLX_OK) {
        *size = (uint64_t)about.st_size;
        return PLX_OK;
    }
    close(*file);
    *file = -1;
    return status;
}

plx_status plx_file_read(plx_context *context, const char *path, size_t most, char **data, size_t *bytes)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe that nobody writes to is empty */
    if (file < 0) return plx_file_fail(context, errno, "open", path);
    plx_status status = PLX_OK;
    char *text = NULL;
    size_t used = 0, capacity = 0;
    struct stat about;
    if (fstat(file, &about) != 0 || S_ISDIR(about.st_mode)) {
        status = plx_file_fail(context, EISDIR, "read", path);
        goto done;
    }
    if (fcntl(file, F_SETFL, 0) != 0) { /* what a writer has yet to write is waited for */
        status = plx_file_fail(context, errno, "read", path);
        goto done;
    }
    size_t expected = about.st_size > 0 ? (size_t)about.st_size : 0;
    for (bool end = false; !end;) {
        /* One byte more than the size tells whether the end is reached without a second round; pipes report size 0. */
        size_t next = used < expected ? expected + 2 : used * 2 + 4096;
        if (next > most && next - 2 > most) next = most + 2;
        char *grown = plx_grow(context, text, capacity, next);
        if (grown == NULL) {
            status = PLX_ERROR_MEMORY;
            goto done;
        }
        text = grown;
        capacity = next;
        ssize_t got = read_fully(file, -1, text + used, capacity - 1 - used);
        if (got < 0) {
            status = plx_file_fail(context, errno, "read", path);
            goto done;
        }
        used += (size_t)got;
        end = used < capacity - 1;
        if (used > most) {
            status = plx_fail(context, PLX_ERROR_FORMAT, "'%s' is larger than %zu bytes, the most that is read here",
                              path, most);
            goto done;
        }
    }
    text[used] = '\0';
    *data = text;
    *bytes = used;
    text = NULL;
done:
    plx_free(context, text);
    close(file);
    return status;
}

static plx_status write_fully(plx_writer *writer, int64_t offset, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t put = offset < 0 ? write(writer->file, data, bytes) : pwrite(writer->file, data, bytes, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return plx_file_fail(writer->context, errno, "write", writer->path);
        data += put;
        bytes -= (size_t)put;
        if (offset >= 0) offset += put;
    }
    return PLX_OK;
}

/* Some special files cannot be synced and say EINVAL: nothing is lost there. */
static plx_status sync_file(plx_context *context, int file, const char *path)
{
    if (fsync(file) != 0 && errno != EINVAL) return plx_file_fail(context, errno, "write", path);
    return PLX_OK;
}

static plx_status flush(plx_writer *writer)
{
    size_t used = writer->used;
    writer->used = 0;
    return write_fully(writer, -1, writer->buffer, used);
}

plx_status plx_writer_open(plx_context *context, const char *path, plx_writer *writer)
{
    *writer = (plx_writer){.context = context, .file = -1};
    writer->path = plx_strdup(context, path);
    writer->buffer = plx_alloc(context, PLX_WRITER_BUFFER);
    if (writer->path == NULL || writer->buffer == NULL) {
        plx_writer_abandon(writer);
        return PLX_ERROR_MEMORY;
    }
    writer->file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->file < 0) {
        plx_status status = plx_file_fail(context, errno, "write", path);
        plx_writer_abandon(writer);
        return status;
    }
    return PLX_OK;
}

plx_status plx_writer_put(plx_writer *writer, const void *data, size_t bytes)
{
    if (bytes > PLX_WRITER_BUFFER - writer->used) PLX_TRY(flush(writer));
    if (bytes > PLX_WRITER_BUFFER) return write_fully(writer, -1, data, bytes);
    if (bytes > 0) memcpy(writer->buffer + writer->used, data, bytes);
    writer->used += bytes;
    return PLX_OK;
}

plx_status plx_writer_patch(plx_writer *writer, uint64_t offset, const void *data, size_t bytes)
{
    PLX_TRY(flush(writer));
    return write_fully(writer, (int64_t)offset, data, bytes);
}

plx_status plx_writer_finish(plx_writer *writer)
{
    plx_status status = flush(writer);
    if (status == PLX_OK) status = sync_file(writer->context, writer->file, writer->path);
    int file = writer->file;
    writer->file = -1;
    /* A close that fails may be the first to tell of a full disk (network file systems). */
    if (close(file) != 0 && status == PLX_OK) status = plx_file_fail(writer->context, errno, "write", writer->path);
    plx_writer_abandon(writer);
    return status;
}

void plx_writer_abandon(plx_writer *writer)
{
    if (writer->context == NULL) return;
    if (writer->file >= 0) close(writer->file);
    plx_free(writer->context, writer->buffer);
    plx_free(writer->context, writer->path);
    *writer = (plx_writer){.file = -1};
}

/* The directory part of a path, "." where there is none; freed with plx_free. */
static char *parent_of(plx_context *context, const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    while (length > 0 && path[length - 1] != '/') length--;
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0) return plx_strdup(context, ".");
    return plx_format(context, "%.*s", (int)length, path);
}

static plx_status sync_path(plx_context *context, const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return plx_file_fail(context, errno, "open", path);
    plx_status status = sync_file(context, file, path);
    close(file);
    return status;
}

plx_status plx_file_rename(plx_context *context, const char *from, const char *to)
{
    char *parent = parent_of(context, to);
    if (parent == NULL) return PLX_ERROR_MEMORY;
    /* Before the renaming, which cannot be taken back. A directory that may be written but not read cannot be synced. */
    int directory = open(parent, O_RDONLY | O_CLOEXEC);
    plx_status status = directory >= 0 || errno == EACCES ? PLX_OK : plx_file_fail(context, errno, "open", parent);
    if (status == PLX_OK && rename(from, to) != 0) status = plx_file_fail(context, errno, "make", to);
    if (status == PLX_OK && directory >= 0) status = sync_file(context, directory, parent);
    if (directory >= 0) close(directory);
    plx_free(context, parent);
    return status;
}

plx_status plx_file_write(plx_context *context, const char *path, const void *data, size_t bytes)
{
    char *aside = plx_format(context, "%s.tmp", path);
    if (aside == NULL) return PLX_ERROR_MEMORY;
    plx_writer writer;
    plx_status status = plx_writer_open(context, aside, &writer);
    if (status == PLX_OK) {
        status = plx_writer_put(&writer, data, bytes);
        if (status == PLX_OK) status = plx_writer_finish(&writer);
        plx_writer_abandon(&writer);
        if (status == PLX_OK) status = plx_file_rename(context, aside, path);
        if (status != PLX_OK) unlink(aside);
    }
    plx_free(context, aside);
    return status;
}

bool plx_file_exists(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0;
}

static plx_status make_one(plx_context *context, const char *path)
{
    struct stat about;
    if (mkdir(path, 0777) == 0) return PLX_OK;
    int number = errno;
    if (stat(path, &about) == 0) {
        if (S_ISDIR(about.st_mode)) return PLX_OK;
        number = ENOTDIR;
    }
    return plx_file_fail(context, number, "make the directory", path);
}

plx_status plx_directory_make(plx_context *context, const char *path)
{
    char *copy = plx_strdup(context, path);
    if (copy == NULL) return PLX_ERROR_MEMORY;
    plx_status status = PLX_OK;
    for (char *at = copy + 1; copy[0] != '\0' && *at != '\0' && status == PLX_OK; at++) {
        if (*at != '/') continue;
        *at = '\0';
        status = make_one(context, copy);
        *at = '/';
    }
    if (status == PLX_OK) status = make_one(context, copy);
    plx_free(context, copy);
    return status;
}

/* Empties the open directory `directory` (taken over) of everything; links are removed, never followed. Returns errno
 * or 0. */
static int empty_directory(int directory, int depth)
{
    DIR *list = fdopendir(directory);
    if (list == NULL) {
        int number = errno;
        close(directory);
        return number;
    }
    int number = depth > PLX_DIRECTORY_DEPTH ? ELOOP : 0;
    for (struct dirent *entry; number == 0 && (entry = readdir(list)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (unlinkat(directory, entry->d_name, 0) == 0 || errno == ENOENT) continue;
        const int refused = errno;
        int inner = openat(directory, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0) number = errno == ENOTDIR || errno == ELOOP ? refused : errno; /* no directory: why it stays */
        else number = empty_directory(inner, depth + 1);
        if (number == 0 && unlinkat(directory, entry->d_name, AT_REMOVEDIR) != 0) number = errno;
    }
    closedir(list);
    return number;
}

plx_status plx_directory_remove(plx_context *context, const char *path)
{
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0) return errno == ENOENT ? PLX_OK : plx_file_fail(context, errno, "remove", path);
    int number = empty_directory(directory, 0);
    if (number == 0 && rmdir(path) != 0) number = errno;
    return number == 0 ? PLX_OK : plx_file_fail(context, number, "remove", path);
}

static plx_status fail_exists(plx_context *context, const char *path)
{
    return plx_fail(context, PLX_ERROR_EXISTS,
                    "'%s' is there already and is not overwritten: remove it or choose another name", path);
}

plx_status plx_directory_begin(plx_context *context, const char *path, char **aside)
{
    *aside = NULL;
    if (plx_file_exists(path)) return fail_exists(context, path);
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    /* A name that nobody else has: neither another thread that makes the same directory, nor what a process that was
     * killed left under this one's number. */
    char *parent = parent_of(context, path);
    plx_status status = parent != NULL ? plx_directory_make(context, parent) : PLX_ERROR_MEMORY;
    plx_free(context, parent);
    for (unsigned attempt = 0; status == PLX_OK && *aside == NULL; attempt++) {
        char *name = plx_format(context, "%.*s.tmp-%ld-%u", (int)length, path, (long)getpid(), attempt);
        if (name == NULL) return PLX_ERROR_MEMORY;
        if (mkdir(name, 0777) == 0) {
            *aside = name;
            return PLX_OK;
        }
        if (errno != EEXIST || attempt == 10000) status = plx_file_fail(context, errno, "make the directory", name);
        plx_free(context, name);
    }
    return status;
}

/* Syncs the files of a directory, and it. */
static plx_status sync_directory(plx_context *context, const char *path)
{
    DIR *list = opendir(path);
    if (list == NULL) return plx_file_fail(context, errno, "open", path);
    plx_status status = PLX_OK;
    for (struct dirent *entry; status == PLX_OK && (entry = readdir(list)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *name = plx_format(context, "%s/%s", path, entry->d_name);
        status = name == NULL ? PLX_ERROR_MEMORY : sync_path(context, name);
        plx_free(context, name);
    }
    closedir(list);
    return status == PLX_OK ? sync_path(context, path) : status;
}

plx_status plx_directory_commit(plx_context *context, char *aside, const char *path)
{
    plx_status status = sync_directory(context, aside);
    /* rename would replace an empty directory that came into being meanwhile. */
    if (status == PLX_OK && plx_file_exists(path)) status = fail_exists(context, path);
    if (status == PLX_OK) status = plx_file_rename(context, aside, path);
    if (status == PLX_ERROR_FILE && plx_file_exists(aside) && plx_file_exists(path)) status = fail_exists(context, path);
    if (status != PLX_OK)
        plx_directory_abandon(context, aside);
    else
        plx_free(context, aside);
    return status;
}

void plx_directory_abandon(plx_context *context, char *aside)
{
    if (aside == NULL) return;
    plx_error first = context->error; /* what went wrong before is the news, not a failure to clean up */
    plx_directory_remove(context, aside);
    context->error = first;
    plx_free(context, aside);
}
