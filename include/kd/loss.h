/* kd/loss.h - objectives: value and gradient with respect to the student's outputs, in one pass.
 *
 * An objective is one file in lib/loss: its row of the objective table (name, formula, what it
 * needs), its fused kernel and its naive twin. A student's loss is a weighted mix of objectives, the
 * `loss:` mapping of its YAML; the mix is resolved once (kd_loss_create) and then called for each batch.
 *
 *     kd: z_t, z_s logits of teacher and student (B, C); p = softmax(z_t / T), q = softmax(z_s / T)
 *         T^2 / B sum_b KL(p_b || q_b), gradient T / B (q - p)      (Hinton et al. 2015, section 2)
 *     ce: -1/B sum_b log softmax(z_s)_b[y_b], optional label smoothing (Szegedy et al. 2016, section 7)
 *
 * Conventions are explicit keys: reduction (batch: divide by rows; element: by rows * classes), t2
 * (whether KD is multiplied by T^2). kd_loss_formula gives the resolved formula for the log.
 *
 * Values are finite for all finite logits: everything goes through log-sum-exp. Rows without a label (label <
 * 0) or masked count in neither value nor gradient; with no rows left both are 0.
 */
#ifndef KD_LOSS_H
#define KD_LOSS_H

#include "kd/config.h"
#include "kd/nn.h"

typedef struct kd_loss_spec {
    double ce, kd;          /* weights; at least one > 0 */
    double temperature;     /* T of kd */
    bool t2;                /* multiply kd by T^2 */
    char *reduction;        /* of kd: batch, element; NULL: batch */
    char *kl_form;          /* of kd: kl, cross_entropy (larger by the teacher's entropy); NULL: kl */
    double label_smoothing; /* of ce, in [0, 1) */
    char *teacher;          /* name of the teacher in the store; NULL: the only one */
} kd_loss_spec;
extern const kd_option kd_loss_options[]; /* keys loss.ce, loss.kd, loss.temperature, ... */
extern const size_t kd_loss_options_n;

/* One row per objective, for --list-losses and for checks. */
typedef struct kd_objective {
    const char *name, *formula, *needs, *source;
} kd_objective;
extern const kd_objective kd_objectives[];
extern const size_t kd_objectives_n;

typedef struct kd_loss kd_loss;
#define KD_LOSS_TERMS 8
/* One batch: student outputs and everything there is to compare them with. */
typedef struct kd_loss_batch {
    int64_t rows, classes;
    const float *logits;   /* (rows, classes) student */
    const int32_t *labels; /* (rows); may be NULL if no objective needs it */
    const float *teacher;  /* (rows, classes) teacher logits; may be NULL likewise */
    float *dlogits;        /* (rows, classes) receives the gradient; NULL: value only */
} kd_loss_batch;

/* max_rows: largest batch. KD_EUSAGE names the key (weights sum to zero, temperature). */
kd_status kd_loss_create(kd_loss **out, const kd_loss_spec *spec, int64_t max_rows, kd_err *err);
void kd_loss_free(kd_loss *l);
bool kd_loss_needs_teacher(const kd_loss *l);
bool kd_loss_needs_labels(const kd_loss *l);
/* Called by all threads of the team (orphaned omp for over fixed blocks of rows, fixed tree, barrier at the
 * end), or serially. */
void kd_loss_run(kd_loss *l, const kd_loss_batch *b);
/* After run (serial): weighted sum, and each term unweighted in the order of kd_loss_terms. */
double kd_loss_value(const kd_loss *l);
int kd_loss_terms(const kd_loss *l, const char *names[KD_LOSS_TERMS], double values[KD_LOSS_TERMS]);
/* "0.1 CE + 0.9 T^2 KL(p||q)/B, T = 4" ; free() it. */
char *kd_loss_formula(const kd_loss *l);
/* Plain C in double, for tests: returns the weighted value, fills dlogits (may be NULL). */
double kd_loss_naive(const kd_loss_spec *spec, const kd_loss_batch *b);

/* Row statistics that evaluation needs, with the same vector exp: log softmax at temperature T into
 * out (rows, classes); orphaned omp for. */
void kd_log_softmax(float *out, const float *logits, int64_t rows, int64_t classes, float temperature);

#endif
