/* students.c - from the files on the command line to the runs of a trainer.
 *
 * A file is one student; each seed, and with --control each student without its teacher, is a run with a
 * folder of its own. The folder's name follows from student, role and seed alone.
 */
#include "train_cmd.h"

#include <stdlib.h>

/* One student in one role, over all seeds. */
static kd_status add_runs(const kd_cli *c, const train_opts *o, kd_trainer *t, const kd_student_spec *s,
                          bool flat, kd_err *err)
{
    const char *role = kd_loss_spec_distils(&s->loss) ? "distilled" : flat ? "teacher" : "plain";
    kd_status st = KD_OK;
    for (size_t i = 0; i < (o->seeds.n ? o->seeds.n : 1) && !st; i++) {
        int64_t seed = o->seeds.n ? o->seeds.v[i] : 0;
        const char *out = o->out ? o->out : "dry-run";
        bool skipped;
        char *folder =
            flat ? kd_strdup(out) : kd_sprintf("%s/%s/%s/seed-%lld", out, s->name, role, (long long)seed);
        st = folder ? kd_trainer_add(t, s, (uint64_t)seed, role, folder, &skipped, err)
                    : kd_fail(err, KD_ENOMEM, "out of memory");
        if (!st && skipped && c->common.verbose) kd_cli_say(c, "%s: finished before, left as it is", folder);
        free(folder);
    }
    return st;
}

kd_status train_add_file(const kd_cli *c, const train_opts *o, kd_trainer *t, const kd_sweep *w,
                         const char *path, bool flat, kd_err *err)
{
    bool distils = false;
    kd_status st = KD_OK;
    for (int control = 0; control < 2 && !st; control++) {
        if (control && !(o->control && distils)) break;
        for (size_t i = 0; i < kd_sweep_points(w, control) && !st; i++) {
            kd_student_spec s;
            if ((st = kd_sweep_load(w, i, control, &s, path, &o->set, err))) break;
            distils |= kd_loss_spec_distils(&s.loss);
            st = add_runs(c, o, t, &s, flat, err);
            kd_student_release(&s);
        }
    }
    return st;
}
