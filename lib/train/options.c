/* options.c - the `train:` mapping of a student's YAML, one row a key.
 *
 * Names and defaults are those that users of other trainers know (lr, weight_decay, betas as in
 * torch.optim); whatever is kept in a checkpoint's contract or printed comes from this table.
 */
#include "train_private.h"

#define G "Training"
const kd_option kd_train_options[] = {
    KD_OPT_INT(G, kd_train_spec, epochs, "train.epochs", "N", 0, "10", 1, 1e6,
               "passes over the training rows"),
    KD_OPT_INT(G, kd_train_spec, batch, "train.batch", "N", 0, "128", 1, 65536,
               "rows a batch; a rest smaller than a step is left out"),
    KD_OPT_INT(G, kd_train_spec, accumulate, "train.accumulate", "K", 0, "1", 1, 65536,
               "batches a step: gradients of K batches are added, as for one of K times the rows in the "
               "memory of one"),
    KD_OPT_CHOICE(G, kd_train_spec, optimizer, "train.optimizer", 0, "adamw", "adamw|sgd",
                  "rule of the update"),
    KD_OPT_REAL(G, kd_train_spec, lr, "train.lr", "RATE", 0, "0.001", 1e-12, 100, "peak learning rate"),
    KD_OPT_REAL(G, kd_train_spec, momentum, "train.momentum", "M", 0, "0.9", 0, 0.9999, "momentum of sgd"),
    KD_OPT_BOOL(G, kd_train_spec, nesterov, "train.nesterov", 0, "off", "Nesterov's momentum for sgd"),
    KD_OPT_REAL(G, kd_train_spec, beta1, "train.beta1", "B", 0, "0.9", 0, 0.999999,
                "decay of adamw's first moment"),
    KD_OPT_REAL(G, kd_train_spec, beta2, "train.beta2", "B", 0, "0.999", 0, 0.999999,
                "decay of adamw's second moment"),
    KD_OPT_REAL(G, kd_train_spec, eps, "train.eps", "E", 0, "1e-8", 1e-30, 1,
                "added to the root of adamw's second moment"),
    KD_OPT_REAL(
        G, kd_train_spec, weight_decay, "train.weight_decay", "W", 0, "0.01", 0, 10,
        "decay of weights (not of biases and norms): decoupled in adamw, added to the gradient in sgd"),
    KD_OPT_CHOICE(G, kd_train_spec, schedule, "train.schedule", 0, "cosine", "constant|cosine|linear",
                  "shape of the learning rate behind the warm-up"),
    KD_OPT_REAL(G, kd_train_spec, warmup, "train.warmup", "F", 0, "0", 0, 0.99,
                "fraction of all steps with a rising rate"),
    KD_OPT_REAL(G, kd_train_spec, final_lr, "train.final_lr", "F", 0, "0", 0, 1,
                "fraction of lr at the end of cosine and linear"),
    KD_OPT_REAL(G, kd_train_spec, clip, "train.clip", "NORM", 0, "0", 0, 1e6,
                "largest norm of the whole gradient; 0: off"),
    KD_OPT_REAL(
        G, kd_train_spec, ema, "train.ema", "DECAY", 0, "0", 0, 0.999999,
        "judge and keep a running mean of the weights: what it keeps of itself a step, at most (1 + step) / "
        "(10 + step); 0: off"),
    KD_OPT_INT(G, kd_train_spec, patience, "train.patience", "N", 0, "0", 0, 1e6,
               "stop after N epochs without a smaller validation loss; 0: never"),
    KD_OPT_CHOICE(G, kd_train_spec, keep, "train.keep", 0, "last", "last|best|best_loss",
                  "weights to keep: of the last epoch, of the best validation accuracy, or of the smallest "
                  "validation loss"),
};
const size_t kd_train_options_n = KD_COUNT(kd_train_options);
