/* state.h - decoding state: every mixer's parts, slot by slot, kept bounded, forked, cut back and saved.
 *
 * A part is one tensor [slots, capacity, width] of vectors a token. Mixers only say how wide a part is and how far
 * back queries look (plx_state_part); everything else about states is here. Before a step the session makes room:
 * where a part would overflow, the tokens that may still be needed are moved to its beginning.
 *
 *     tokens of the sequence   0 ....... base ................. length ........... length + T
 *     a part's row                       | kept: may be needed | written by a step |
 *     index in the row                   0                                      <= capacity
 *
 * A step appends T tokens to each of its rows, the longest row's count; a shorter row's surplus lies beyond its length
 * and is overwritten by its next step. Only the bookkeeping below is host memory. */
#ifndef PLX_INFER_STATE_H
#define PLX_INFER_STATE_H

#include "model/model.h"

typedef struct plx_part {
    size_t width, keep;     /* as plx_state_part; keep 0: all */
    size_t capacity;        /* tokens a slot */
    plx_state_form form;
    size_t token_bytes;
    void *data;             /* device, [slots, capacity, width] */
    int32_t *base;          /* [slots] index in the sequence of the first token held */
} plx_part;

typedef struct plx_slot {
    size_t length;          /* tokens of the sequence so far */
    int32_t *starts;        /* first tokens of its documents, ascending; those that nothing reaches are dropped */
    size_t start_count, start_room;
} plx_slot;

/* A step's numbers beside the batch's own, one block that one upload brings to the device. */
typedef struct plx_session_staging {
    int32_t *slot, *last;         /* [B]; last: index in [B*T] of the row's last token */
    int32_t *base, *from, *count; /* [parts,B]: base after making room; what is moved for that */
} plx_session_staging;

struct plx_session {
    plx_context *context;
    plx_model *model;
    size_t slots, capacity, chunk, rollback;
    plx_state_form form;    /* of the parts that may be packed */
    plx_part *parts;
    size_t part_count;
    size_t *first_part;     /* [layers + 1] */
    plx_slot *slot;         /* [slots] */
    void *state;            /* device: all parts */
    plx_arena arena;        /* working memory of a step */
    int32_t *inputs, *start, *past; /* [slots * chunk], past [slots]; host: a step's batch */
    int32_t *host;          /* staging, and its copy on the device */
    void *device;
    plx_session_staging at; /* device pointers of the step that runs */
    double *wide;           /* f64 models: a row of logits on its way to float */
};

/* Parts of all layers, their sizes and memory. */
plx_status plx_state_create(plx_session *session);
void plx_state_free(plx_session *session);
/* Start of the document that token `index` belongs to, index < length or the next one without a new document; -1 when
 * that is forgotten. */
int32_t plx_state_document(const plx_slot *slot, size_t index);
/* Room for `more` starts in the slot's list, so that noting them cannot fail. */
plx_status plx_state_reserve_documents(plx_session *session, size_t slot, size_t more);
/* Makes room for `length` more tokens in the slots of host->slot: plan fills base, from and count of the staging block,
 * make_room, once that is uploaded, moves what has to be moved. */
void plx_state_plan_room(plx_session *session, const plx_session_staging *host, size_t rows, size_t length);
plx_status plx_state_make_room(plx_session *session, const plx_session_staging *host, const plx_session_staging *device,
                               size_t rows);

#endif
