/* files.h - files that are complete or not there: written aside, synced, renamed. */
#ifndef PLX_IO_FILES_H
#define PLX_IO_FILES_H

#include "core/context.h"

/* Reads a whole file, or a pipe that someone writes to, of at most `most` bytes; *data is NUL-terminated beyond *bytes,
 * freed with plx_free. */
plx_status plx_file_read(plx_context *context, const char *path, size_t most, char **data, size_t *bytes);
/* Writes PATH.tmp, syncs it, renames it to PATH, syncs the directory. On failure PATH is as before. */
plx_status plx_file_write(plx_context *context, const char *path, const void *data, size_t bytes);
/* mkdir -p */
plx_status plx_directory_make(plx_context *context, const char *path);
/* A directory that appears whole: *aside is "PATH.tmp-PID", made empty (and PATH's parents made); fill it, then commit
 * (syncs every file and renames) or abandon (removes it). Both free the string `aside`, commit also when it fails:
 * then the files aside are removed and PATH is not there. ERROR_EXISTS if PATH is there. */
plx_status plx_directory_begin(plx_context *context, const char *path, char **aside);
plx_status plx_directory_commit(plx_context *context, char *aside, const char *path);
void plx_directory_abandon(plx_context *context, char *aside);
/* rm -r of a directory that Plexus wrote. Missing is fine. */
plx_status plx_directory_remove(plx_context *context, const char *path);
bool plx_file_exists(const char *path);

/* Records ERROR_FILE for errno `number`: "cannot ACTION 'PATH': reason; remedy". Returns it. */
plx_status plx_file_fail(plx_context *context, int number, const char *action, const char *path);
/* Opens a file to be read at any place, and gives its size. ERROR_FILE, at once, also for a directory, a pipe or a
 * device. */
plx_status plx_file_open(plx_context *context, const char *path, int *file, uint64_t *size);
/* Reads exactly `bytes` bytes at `offset`; a file that ends before is ERROR_FORMAT. */
plx_status plx_file_read_at(plx_context *context, int file, const char *path, uint64_t offset, void *data,
                            size_t bytes);

/* A file written from front to back through a buffer; every error of writing, syncing and closing is reported. */
typedef struct plx_writer {
    plx_context *context;
    char *path, *buffer;
    int file;
    size_t used;
} plx_writer;
/* Makes or empties the file. On failure nothing is left open. */
plx_status plx_writer_open(plx_context *context, const char *path, plx_writer *writer);
plx_status plx_writer_put(plx_writer *writer, const void *data, size_t bytes);
/* Overwrites bytes that have been put before. */
plx_status plx_writer_patch(plx_writer *writer, uint64_t offset, const void *data, size_t bytes);
/* Writes what is buffered, syncs and closes. The writer is empty afterwards, whatever happened. */
plx_status plx_writer_finish(plx_writer *writer);
/* Closes without writing the rest; nothing on an empty writer. The file stays. */
void plx_writer_abandon(plx_writer *writer);
/* Renames and syncs the directory that `to` is in. */
plx_status plx_file_rename(plx_context *context, const char *from, const char *to);

#endif
