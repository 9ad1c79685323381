/* answers.h - rows that a language model continues side by side (answers.c). */
#ifndef KD_TEACHER_ANSWERS_H
#define KD_TEACHER_ANSWERS_H

#include "teacher_private.h"

typedef struct kd__answer {
    uint32_t *token;          /* the prompt, then what was drawn */
    uint32_t prompt, n, seen; /* tokens of the prompt, of both, and those that went through the model */
    uint64_t row;             /* for messages */
    uint64_t seed;            /* of its draws */
    const kd_id *id;          /* of its row, for the codec's draws */
    kd__said *said;           /* the logits that were drawn from */
    bool ended;
    kd_err err;
} kd__answer;

typedef struct kd__speakers kd__speakers;
/* Replaces the teacher's plan until kd__speakers_close, and its taps. most: tokens of a row. KD_ENOMEM. */
kd_status kd__speakers_open(kd__speakers **out, kd_teacher *t, const kd__target *g,
                            const kd_generate_params *p, uint32_t most, kd_err *err);
void kd__speakers_close(kd__speakers *s); /* NULL-safe */
/* A row whose prompt is n ids; one that leaves no room for an answer has ended. KD_ECORRUPT, KD_ENOMEM. */
kd_status kd__answer_open(kd__answer *a, const kd__speakers *s, const void *ids, kd_dtype dtype, uint32_t n,
                          uint64_t row, kd_err *err);
void kd__answer_release(kd__answer *a);
bool kd__speakers_free(const kd__speakers *s); /* whether one more row can begin */
bool kd__speakers_idle(const kd__speakers *s); /* none goes on */
void kd__speakers_begin(kd__speakers *s, kd__answer *a);
/* One pass of the model: each row goes on by a token, or by a piece of its prompt. KD_ENUMERIC names the row.
 */
kd_status kd__speakers_step(kd__speakers *s, kd_err *err);

#endif
