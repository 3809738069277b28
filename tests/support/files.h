/* files.h - files for tests, in a directory that vanishes with the program, and expected errors. */
#ifndef PLX_TESTS_FILES_H
#define PLX_TESTS_FILES_H

#include "support/models.h"

/* A path NAME in this program's own fresh temporary directory, which is removed at exit. Valid for the next 15 calls.
 * */
const char *test_path(const char *name);
/* Writes the file and returns its path, as test_path. */
const char *test_file(const char *name, const void *data, size_t bytes);
/* Text of a file, NUL-terminated, freed with free; NULL when it cannot be read. */
char *test_read(const char *path, size_t *bytes);

/* For programs whose tests share one context with default options: cmocka group fixtures, and it. */
extern plx_context *context;
int open_context(void **state);
int close_context(void **state);

/* Fails the test unless the expression gives this status and a message of one line that contains the text. */
#define expect_error(context, code_, text_, expression) \
    do { \
        plx_status expect_status_ = (expression); \
        const plx_error *expect_error_ = plx_context_error(context); \
        if (expect_status_ != (code_) || strstr(expect_error_->message, (text_)) == NULL || \
            strchr(expect_error_->message, '\n') != NULL || expect_error_->code != (code_)) \
            fail_msg("%s: expected %s with '%s', got %s: %s", #expression, plx_status_name(code_), (text_), \
                     plx_status_name(expect_status_), expect_error_->message); \
    } while (0)

/* An allocator that counts what is held and can fail at a given call. */
typedef struct test_allocator {
    long calls, held;
    long fail_at; /* this call and those after it get nothing; 0: never */
    bool once;    /* only this call */
} test_allocator;
/* It as a context takes it. */
plx_allocator test_allocation(test_allocator *allocator);
/* A context over it. */
plx_context *test_counting_context(test_allocator *allocator);

#endif
