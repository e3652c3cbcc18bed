// husk: qcow2 images: the order in which changed tables reach the file
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_private.h"

// A commit writes what the tables were when it began:
//   1. refcounts (which only grow until then), new refcount blocks before the table that lists them
//   2. flush: these, new L2 tables, and all data that any L2 entry in memory refers to (an entry changes only after its
//      data was written)
//   3. L2 slices and L1 sectors
//   4. flush: a flush request of the guest is done now
//   5. clusters that were dropped before the commit began lose a reference: nothing on disk refers to them any more
// A crash between any two writes leaves at most clusters that are counted and not referred to.

namespace husk::block::qcow2 {

bool Image::needs_commit() const {
  return l2_cache_->dirty_count() > 0 || refcount_cache_->dirty_count() > 0 || any_l1_dirty_ ||
         any_refcount_table_dirty_ || !frees_.empty();
}

/// False, and `job` will be called again, if too much is unwritten to change more.
bool Image::admit(Job& job) {
  const auto pressed = [](const TableCache& cache, std::size_t quarters) {
    return cache.dirty_count() * 4 >= cache.capacity() * quarters;
  };
  const bool soft = pressed(*l2_cache_, 2) || pressed(*refcount_cache_, 2);
  const bool hard = pressed(*l2_cache_, 3) || pressed(*refcount_cache_, 3);
  if (hard) {
    job.waiting = true;
    stalled_.push_back(&job);
  }
  if (soft && !commit_) start_commit();
  return !hard || !job.waiting;
}

void Image::commit(core::BlockCompletion done) {
  next_commit_.push_back(std::move(done));
  if (!commit_) start_commit();
}

void Image::start_commit() {
  commit_ = std::make_unique<CommitRun>();
  CommitRun& run = *commit_;
  run.done = std::exchange(next_commit_, {});
  const auto take = [](TableCache& cache, std::vector<CommitRun::Save>& to) {
    for (Slice* slice : cache.take_dirty())
      to.push_back({&cache, slice, slice->offset, {slice->data.get(), slice->data.get() + cache.slice_bytes()}, {}});
  };
  const auto take_sectors = [](std::vector<bool>& dirty, const std::vector<std::uint64_t>& table, std::uint64_t offset,
                               std::vector<CommitRun::Save>& to) {
    for (std::size_t sector = 0; sector < dirty.size(); ++sector) {
      if (!dirty[sector]) continue;
      dirty[sector] = false;
      const std::size_t first = sector * 64;
      const std::size_t count = std::min<std::size_t>(64, table.size() - first);
      CommitRun::Save save{nullptr, nullptr, offset + first * 8, std::vector<std::uint8_t>(count * 8), {}};
      for (std::size_t i = 0; i < count; ++i) store_be(&save.content[i * 8], table[first + i]);
      to.push_back(std::move(save));
    }
  };
  // With lazy refcounts a crash is mended by counting anew, so they need to be written only now and then.
  const bool skip_refcounts = lazy_ && !closed_ && !exclusive_ &&
                              refcount_cache_->dirty_count() * 4 < refcount_cache_->capacity() && frees_.empty();
  if (!skip_refcounts) take(*refcount_cache_, run.refcounts);
  if (std::exchange(any_refcount_table_dirty_, false))
    take_sectors(refcount_table_dirty_, meta_.refcount_table, meta_.header.refcount_table_offset, run.refcount_table);
  take(*l2_cache_, run.tables);
  if (std::exchange(any_l1_dirty_, false)) take_sectors(l1_dirty_, meta_.l1, meta_.header.l1_offset, run.tables);
  run.frees = std::exchange(frees_, {});
  commit_stage(run);
}

void Image::commit_stage(CommitRun& run) {
  using Stage = CommitRun::Stage;
  const auto next = [this, &run](Stage stage) {
    run.stage = stage;
    commit_stage(run);
  };
  const auto flush = [this, &run, next](Stage then) {
    file_->submit({.op = core::BlockOp::flush,
                   .flags = 0,
                   .offset = 0,
                   .length = 0,
                   .spans = {},
                   .completion = [this, &run, next, then](int error) {
                     if (error != 0) {
                       run.error = error;
                       return end_commit(run);
                     }
                     if (!external_) return next(then);
                     external_->submit({.op = core::BlockOp::flush,
                                        .flags = 0,
                                        .offset = 0,
                                        .length = 0,
                                        .spans = {},
                                        .completion = [this, &run, next, then](int result) {
                                          if (result != 0) {
                                            run.error = result;
                                            return end_commit(run);
                                          }
                                          next(then);
                                        }});
                   }});
  };
  const auto save_all = [this, &run, next](std::vector<CommitRun::Save>& saves, Stage then) {
    if (saves.empty()) return next(then);
    run.pending = static_cast<unsigned>(saves.size()) + 1;
    const auto one_done = [this, &run, next, then] {
      if (--run.pending > 0) return;
      if (run.error != 0)
        end_commit(run);
      else
        next(then);
    };
    file_->begin_batch();
    for (CommitRun::Save& save : saves) {
      save.span = save.content;
      file_->submit({.op = core::BlockOp::write,
                     .flags = 0,
                     .offset = save.offset,
                     .length = save.content.size(),
                     .spans = {&save.span, 1},
                     .completion = [&run, &save, one_done](int error) {
                       if (error != 0) run.error = error;
                       if (save.slice != nullptr) save.cache->saved(*save.slice, error);
                       save.slice = nullptr;
                       one_done();
                     }});
    }
    file_->end_batch();
    one_done();
  };
  switch (run.stage) {
    case Stage::mark_dirty:
      if (!lazy_ || marked_dirty_ || (run.tables.empty() && run.refcounts.empty())) return next(Stage::refcounts);
      marked_dirty_ = true;
      meta_.header.incompatible |= kDirty;
      run.word.resize(8);
      store_be(run.word.data(), meta_.header.incompatible);
      run.word_span = run.word;
      file_->submit({.op = core::BlockOp::write,
                     .flags = 0,
                     .offset = 72,
                     .length = 8,
                     .spans = {&run.word_span, 1},
                     .completion = [this, &run, flush](int error) {
                       if (error == 0) return flush(Stage::refcounts);
                       run.error = error;
                       end_commit(run);
                     }});
      return;
    case Stage::refcounts:
      return save_all(run.refcounts, run.refcount_table.empty() ? Stage::flush_before : Stage::flush_refcounts);
    case Stage::flush_refcounts: return flush(Stage::refcount_table);
    case Stage::refcount_table: return save_all(run.refcount_table, Stage::flush_before);
    case Stage::flush_before:
      if (run.tables.empty()) return next(Stage::flush_after);
      return flush(Stage::tables);
    case Stage::tables: return save_all(run.tables, Stage::flush_after);
    case Stage::flush_after: return flush(Stage::frees);
    case Stage::frees: {
      // Who asked for the flush need not wait for the rest.
      auto done = std::exchange(run.done, {});
      for (auto& completion : done) completion(0);
      return apply_frees(std::exchange(run.frees, {}), [this, &run](int error) {
        run.error = error;
        end_commit(run);
      });
    }
    case Stage::ended: return;
  }
}

void Image::end_commit(CommitRun& run) {
  // What was not written is still to be written.
  for (auto* saves : {&run.refcounts, &run.tables})
    for (CommitRun::Save& save : *saves)
      if (save.slice != nullptr) save.cache->saved(*save.slice, run.error);
  if (run.error != 0) {
    l1_dirty_.assign(l1_dirty_.size(), true);
    refcount_table_dirty_.assign(refcount_table_dirty_.size(), true);
    any_l1_dirty_ = any_refcount_table_dirty_ = true;
    frees_.insert(frees_.end(), run.frees.begin(), run.frees.end());
  }
  const int error = run.error;
  const std::unique_ptr<CommitRun> ended = std::move(commit_);
  for (auto& completion : ended->done) completion(error);
  const auto stalled = std::exchange(stalled_, {});
  for (Job* job : stalled) {
    job->waiting = false;
    if (error != 0) job_failed(*job, error);
    advance(*job);
  }
  if (!next_commit_.empty() && !commit_) start_commit();
  idle();
}

void Image::close(core::BlockCompletion done) {
  const auto close_files = [this](core::BlockCompletion finished) {
    auto children = std::make_shared<std::vector<Node*>>();
    for (Node* node : {file_.get(), external_.get(), backing_.get()})
      if (node != nullptr) children->push_back(node);
    struct Closing {
      core::BlockCompletion done;
      std::size_t pending;
      int error = 0;
    };
    auto closing = std::make_shared<Closing>(Closing{std::move(finished), children->size()});
    for (Node* node : *children)
      node->close([closing](int error) {
        if (error != 0) closing->error = error;
        if (--closing->pending == 0) closing->done(closing->error);
      });
  };
  drain([this, close_files, done = std::move(done)]() mutable {
    closed_ = true;
    if (options_.read_only) return close_files(std::move(done));
    // The second commit writes the refcounts that shrank after the first.
    commit([this, close_files, done = std::move(done)](int first) mutable {
      drain([this, close_files, first, done = std::move(done)]() mutable {
        commit([this, close_files, first, done = std::move(done)](int second) mutable {
          drain([this, close_files, first, second, done = std::move(done)]() mutable {
            const int error = first != 0 ? first : second;
            if (error != 0 || !marked_dirty_ || corrupt_)
              return close_files(
                  [error, done = std::move(done)](int closed) mutable { done(error != 0 ? error : closed); });
            marked_dirty_ = false;
            meta_.header.incompatible &= ~kDirty;
            struct Word {
              std::uint8_t bytes[8];
              core::BlockSpan span;
            };
            auto word = std::make_unique<Word>();
            store_be(word->bytes, meta_.header.incompatible);
            word->span = word->bytes;
            const std::span<const core::BlockSpan> spans(&word->span, 1);
            file_->submit(
                {.op = core::BlockOp::write,
                 .flags = 0,
                 .offset = 72,
                 .length = 8,
                 .spans = spans,
                 .completion = [close_files, word = std::move(word), done = std::move(done)](int written) mutable {
                   if (written != 0)
                     done(written);
                   else
                     close_files(std::move(done));
                 }});
          });
        });
      });
    });
  });
}

}  // namespace husk::block::qcow2
