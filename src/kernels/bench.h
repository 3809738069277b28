/* bench.h - what `plexus bench` measures: cases, each an operation (or several) with shapes and a way to make a problem.
 *
 * A case makes the same problem in several ways: with numbers in f32 for the implementation that is measured, in f64
 * for the reference, and in f64 with operands rounded to bf16, which tells what error bf16 may make. So `make` is
 * written once: it asks for arrays (plx_bench_input, ...), which come filled in the problem's own type, and writes the
 * operation's arguments. Cases of the shared operations are in bench.c, a mixer's in its folder (plx_mixer.bench), those
 * of whole models in lab/bench_model.c. */
#ifndef PLX_KERNELS_BENCH_H
#define PLX_KERNELS_BENCH_H

#include "kernels/kernels.h"

/* Sizes that a shape may have, in the order they are shown; 0: does not apply. M, N, K are those of a matrix product,
 * `count` the elements of an operation without another shape. */
#define PLX_BENCH_SIZES(X)                                                                                             \
    X(B) X(T) X(H) X(G) X(d) X(w1) X(w2) X(D) X(M) X(N) X(K) X(ffn) X(vocab) X(layers) X(rank) X(count)
typedef struct plx_bench_shape {
#define PLX_BENCH_MEMBER(name) size_t name;
    PLX_BENCH_SIZES(PLX_BENCH_MEMBER)
#undef PLX_BENCH_MEMBER
} plx_bench_shape;

typedef struct plx_bench_problem plx_bench_problem;

typedef struct plx_bench_case {
    const char *name;              /* "attention.forward"; ops of one case for several shapes have the same */
    const plx_op *op;              /* whose implementations are compared; NULL: `run` as the level of the context does */
    const plx_bench_shape *shapes; /* the default ones, ended by one of zeros */
    double tolerance;              /* of f32 results: largest difference from the reference over its largest value */
    const char *convention;        /* how flops are counted: "4 d a visible pair"; NULL: none, bytes are */
    /* Asks for the arrays, writes problem->arguments and what else is below. */
    plx_status (*make)(plx_bench_problem *problem, const plx_bench_shape *shape);
    /* What must come before a run and is not timed, as the implementation that follows does it: a forward before a
     * backward, of the same precision. NULL: nothing. */
    plx_status (*prepare)(plx_bench_problem *problem);
    plx_status (*run)(plx_bench_problem *problem);    /* NULL: the operation on the arguments */
    void (*release)(plx_bench_problem *problem);      /* of problem->own; may be NULL */
    const void *user;                                 /* for make and run */
} plx_bench_case;

/* operand: rounded where bf16 rounds; result: compared; plain: neither; lent: a result that the case frees;
 * zeroed: begins with 0. */
enum { PLX_BENCH_OPERAND = 1, PLX_BENCH_RESULT = 2, PLX_BENCH_PLAIN = 4, PLX_BENCH_LENT = 8, PLX_BENCH_ZEROED = 16 };
typedef struct plx_bench_array {
    void *data;       /* device */
    plx_type type;
    size_t count, bytes;
    double scale;     /* deviation of its random numbers; 0: a result */
    int role;         /* of the above, or-ed */
} plx_bench_array;

struct plx_bench_problem {
    plx_context *context;
    const plx_bench_case *about;
    plx_type type;          /* of activations: f32, or f64 for the reference */
    bool rounded;           /* operands hold numbers rounded to bf16 */
    bool dry;               /* only the flops are wanted: arrays have no memory */
    const char *kernel;     /* name of the implementation to take; NULL: the context's choice */
    /* written by make */
    double flops;           /* of one run; by default those of the operation */
    double bytes;           /* that one run reads and writes at least: those of the arrays, and what make adds */
    double tokens;          /* where a rate of tokens is of interest, else 0 */
    bool *bf16;             /* switches rounding of operands on, where the operation has that; or NULL */
    void *own;              /* of the case */
    double seconds;         /* run may set what it took, when only a part of it counts; < 0: all */
    /* the arrays */
    plx_bench_array *arrays;
    int array_count;
    union { char bytes[1024]; double align; } arguments;
    plx_status status;      /* the first failure of the functions below, which then return NULL */
};

/* Arrays of the problem's type. input: random numbers normal(0, scale). output: overwritten by the operation. both: read
 * and changed ("+=", in place), beginning with random numbers; zeroed: the same, beginning with 0. */
void *plx_bench_input(plx_bench_problem *problem, size_t count, double scale);
void *plx_bench_output(plx_bench_problem *problem, size_t count);
void *plx_bench_both(plx_bench_problem *problem, size_t count, double scale);
void *plx_bench_zeroed(plx_bench_problem *problem, size_t count);
/* An input, a result of a fixed type. */
void *plx_bench_input_of(plx_bench_problem *problem, plx_type type, size_t count, double scale);
void *plx_bench_output_of(plx_bench_problem *problem, plx_type type, size_t count);
/* Memory of the device that is neither: filled with `bytes` bytes of `data`, which may be NULL (cleared). */
void *plx_bench_plain(plx_bench_problem *problem, const void *data, size_t bytes);
/* Whole numbers: random below `most`, or i / divide % most. */
int32_t *plx_bench_random_ids(plx_bench_problem *problem, size_t count, size_t most);
int32_t *plx_bench_counts(plx_bench_problem *problem, size_t count, size_t divide, size_t most);
/* A result that the case holds itself. */
void plx_bench_watch(plx_bench_problem *problem, const void *data, plx_type type, size_t count);
/* Of a problem with rounded operands: rounds what one operation left for the next, whose operand it is. */
void plx_bench_round(plx_bench_problem *problem, const void *data, size_t count);
/* B rows of T tokens, one document each. */
plx_sequence plx_bench_sequence(plx_bench_problem *problem, size_t rows, size_t length);
/* An operation of the problem, by problem->kernel where it has that and it accepts the arguments. Nothing when dry. */
plx_status plx_bench_op(plx_bench_problem *problem, const plx_op *op, const void *arguments);

/* ---- for the runner ---- */
plx_status plx_bench_make(plx_bench_problem *problem, plx_context *context, const plx_bench_case *about,
                          const plx_bench_shape *shape, plx_type type, bool rounded, bool dry);
/* Gives inputs their first numbers again and fills outputs with NaN. */
plx_status plx_bench_refill(plx_bench_problem *problem);
plx_status plx_bench_prepare(plx_bench_problem *problem);
plx_status plx_bench_run(plx_bench_problem *problem);
void plx_bench_free(plx_bench_problem *problem);

/* The shared operations, ended by NULL. */
extern const plx_bench_case *const plx_shared_bench[];

#endif
