// husk: qcow2 images: opening, and what is done with nothing else under way: snapshots, resizing, another backing
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_private.h"
#include "block/qcow2_surgery.h"

namespace husk::block::qcow2 {

namespace {
Result<std::size_t> find_snapshot(const Metadata& meta, const std::string& name) {
  for (std::size_t i = 0; i < meta.snapshots.size(); ++i)
    if (meta.snapshots[i].name == name) return i;
  for (std::size_t i = 0; i < meta.snapshots.size(); ++i)
    if (meta.snapshots[i].id == name) return i;
  return std::unexpected(Error{fmt::format("there is no snapshot '{}'", name), "'husk img snapshot -l' lists them"});
}
}  // namespace

Image::Image(Context& context, std::unique_ptr<Node> file, std::unique_ptr<Node> data_file,
             std::unique_ptr<Node> backing, const ImageOptions& options)
    : context_(context),
      file_(std::move(file)),
      external_(std::move(data_file)),
      backing_(std::move(backing)),
      options_(options) {}

Image::~Image() { HUSK_CHECK(requests_ == 0 && !commit_ && !exclusive_); }

Result<std::unique_ptr<Image>> Image::open(Context& context, std::unique_ptr<Node> file, Header header,
                                           std::unique_ptr<Node> data_file, std::unique_ptr<Node> backing,
                                           const ImageOptions& options) {
  std::unique_ptr<Image> image(new Image(context, std::move(file), std::move(data_file), std::move(backing), options));
  HUSK_TRY(image->load(std::move(header)));
  return image;
}

Status Image::load(Header header) {
  Disk disk(context_, *file_);
  const bool writes = !options_.read_only;
  if (writes && (header.incompatible & kCorrupt))
    return std::unexpected(Error{fmt::format("the image '{}' is marked as corrupt", name()),
                                 "open it read-only, or repair it with 'husk img check -r all'"});
  Metadata meta = HUSK_TRY(read_metadata(disk, std::move(header)));
  if (writes && (meta.header.incompatible & kDirty)) {
    context_.log().info("'{}' was not closed properly; its refcounts are counted anew", name());
    HUSK_TRY(check(disk, meta, Repair::all));
  }
  if (writes) {
    // Bitmaps that husk does not keep up to date, and whatever else unknown needs an update with each write.
    const std::uint64_t autoclear = meta.header.autoclear & kRawExternalData;
    if (autoclear != meta.header.autoclear) {
      std::uint8_t word[8];
      store_be(word, autoclear);
      HUSK_TRY(disk.write(88, word));
      HUSK_TRY(disk.flush());
      meta.header.autoclear = autoclear;
    }
  }
  if (!options_.snapshot.empty()) {
    if (writes) return fail("snapshot '{}' of '{}' can only be read", options_.snapshot, name());
    const Snapshot& snapshot = meta.snapshots[HUSK_TRY(find_snapshot(meta, options_.snapshot))];
    std::vector<std::uint8_t> bytes(std::uint64_t{snapshot.l1_size} * 8);
    HUSK_TRY(disk.read(snapshot.l1_offset, bytes));
    meta.l1.resize(snapshot.l1_size);
    for (std::size_t i = 0; i < meta.l1.size(); ++i) meta.l1[i] = load_be<std::uint64_t>(&bytes[i * 8]);
    meta.header.size = snapshot.disk_size;
  }
  adopt(std::move(meta));
  return {};
}

/// Starts anew from tables as they are in the file.
void Image::adopt(Metadata meta) {
  meta_ = std::move(meta);
  const Header& h = meta_.header;
  cluster_bits_ = h.cluster_bits;
  cluster_ = h.cluster_size();
  subcluster_ = h.subcluster_size();
  entry_bytes_ = h.l2_entry_bytes();
  const std::size_t slice = std::min<std::uint64_t>(cluster_, 4096);
  const auto capacity = [&](std::uint64_t bytes) { return std::max<std::size_t>(64, bytes / slice); };
  l2_cache_.emplace(*file_, slice, capacity(options_.l2_cache));
  refcount_cache_.emplace(*file_, slice, capacity(options_.refcount_cache));
  slice_reach_ = slice / entry_bytes_ * cluster_;
  l1_dirty_.assign((meta_.l1.size() + 63) / 64, false);
  refcount_table_dirty_.assign((meta_.refcount_table.size() + 63) / 64, false);
  any_l1_dirty_ = any_refcount_table_dirty_ = false;
  metadata_clusters_.clear();
  for (const std::uint64_t entry : meta_.l1)
    if (entry & kOffsetMask) metadata_clusters_.push_back(entry & kOffsetMask);
  for (const std::uint64_t entry : meta_.refcount_table)
    if (entry & kRefcountOffsetMask) metadata_clusters_.push_back(entry & kRefcountOffsetMask);
  std::sort(metadata_clusters_.begin(), metadata_clusters_.end());
  next_cluster_ = 0;
  compressed_end_ = 0;
  decompressed_entry_ = 0;
  virgin_ = file_->growable() ? align_up(file_->info().size, cluster_) : ~std::uint64_t{0};
  lazy_ = h.version >= 3 && options_.lazy_refcounts.value_or((h.compatible & kLazyRefcounts) != 0);
  corrupt_ = (h.incompatible & kCorrupt) != 0;
}

void Image::exclusively(std::move_only_function<Status(Metadata&)> surgery, Done done) {
  if (options_.read_only) return done(fail("the image '{}' is open read-only", name()));
  if (corrupt_) return done(fail("the image '{}' is corrupt", name()));
  exclusives_.push_back({std::move(surgery), std::move(done)});
  try_exclusive();
}

void Image::try_exclusive() {
  if (exclusives_.empty() || exclusive_ || requests_ > 0 || commit_) return;
  exclusive_ = true;
  struct Surgery {
    Exclusive what;
    Metadata meta;
    Status result;
  };
  auto work = std::make_shared<Surgery>();
  work->what = std::move(exclusives_.front());
  exclusives_.pop_front();
  const auto finish = [this, work](Status result) {
    exclusive_ = false;
    work->what.done(std::move(result));
    if (exclusives_.empty()) {
      auto held = std::exchange(held_, {});
      for (core::BlockRequest& request : held) submit(std::move(request));
    }
    idle();
  };
  const auto operate = [this, work, finish] {
    work->meta = meta_;
    l2_cache_->clear();
    refcount_cache_->clear();
    context_.workers().run([work] { work->result = work->what.surgery(work->meta); },
                           [this, work, finish] {
                             const std::uint64_t before = meta_.header.size;
                             // Also after a failure: the file may have grown, and the header decides which image it is.
                             if (work->result)
                               adopt(std::move(work->meta));
                             else
                               virgin_ = std::max(virgin_, align_up(file_->info().size, cluster_));
                             if (meta_.header.size != before && resized_) resized_();
                             finish(std::move(work->result));
                           });
  };
  settle([this, finish, operate](int error) {
    if (error != 0)
      finish(fail_errno(error, fmt::format("cannot write the tables of '{}'", name())));
    else
      operate();
  });
}

/// Calls back when no commit is under way and nothing is dirty: after a commit that drops clusters, and another that
/// writes the refcounts that shrank.
void Image::settle(Continue done) {
  if (!commit_ && !needs_commit()) return done(0);
  commit([this, done = std::move(done)](int error) mutable {
    // Not from here: the commit that calls this is still under way.
    context_.loop().post([this, error, done = std::move(done)]() mutable {
      if (error != 0)
        done(error);
      else
        settle(std::move(done));
    });
  });
}

void Image::create_snapshot(std::string name, Done done) {
  if (name.empty() || name.size() > 255) return done(fail("a snapshot's name has 1 to 255 bytes"));
  exclusively(
      [this, name](Metadata& meta) -> Status {
        if (meta.header.external_data())
          return fail("an image with an external data file cannot have internal snapshots");
        unsigned long highest = 0;
        for (const Snapshot& s : meta.snapshots) {
          if (s.name == name) return fail("there is a snapshot '{}' already", name);
          highest = std::max(highest, std::strtoul(s.id.c_str(), nullptr, 10));
        }
        if (meta.snapshots.size() >= kMostSnapshots)
          return fail("the image has {} snapshots; that is the limit", kMostSnapshots);
        Snapshot snapshot;
        snapshot.id = std::to_string(highest + 1);
        snapshot.name = name;
        timespec now{};
        ::clock_gettime(CLOCK_REALTIME, &now);
        snapshot.seconds = static_cast<std::uint32_t>(now.tv_sec);
        snapshot.nanoseconds = static_cast<std::uint32_t>(now.tv_nsec);
        snapshot.disk_size = meta.header.size;
        Plan plan{.header = meta.header, .l1 = meta.l1};
        for (const Snapshot& s : meta.snapshots) plan.snapshots.push_back({s, {}, false});
        plan.snapshots.push_back({snapshot, meta.l1, true});
        Disk disk(context_, *file_, true);
        return rewrite(disk, meta, std::move(plan));
      },
      std::move(done));
}

void Image::apply_snapshot(std::string name, Done done) {
  exclusively(
      [this, name](Metadata& meta) -> Status {
        const Snapshot& snapshot = meta.snapshots[HUSK_TRY(find_snapshot(meta, name))];
        Disk disk(context_, *file_, true);
        Plan plan{.header = meta.header};
        std::vector<std::uint8_t> bytes(std::uint64_t{snapshot.l1_size} * 8);
        HUSK_TRY(disk.read(snapshot.l1_offset, bytes));
        for (std::size_t at = 0; at < bytes.size(); at += 8) plan.l1.push_back(load_be<std::uint64_t>(&bytes[at]));
        plan.header.size = snapshot.disk_size;
        for (const Snapshot& s : meta.snapshots) plan.snapshots.push_back({s, {}, false});
        return rewrite(disk, meta, std::move(plan));
      },
      std::move(done));
}

void Image::delete_snapshot(std::string name, Done done) {
  exclusively(
      [this, name](Metadata& meta) -> Status {
        const std::size_t index = HUSK_TRY(find_snapshot(meta, name));
        Disk disk(context_, *file_, true);
        Plan plan{.header = meta.header, .l1 = meta.l1};
        for (std::size_t i = 0; i < meta.snapshots.size(); ++i)
          if (i != index) plan.snapshots.push_back({meta.snapshots[i], {}, false});
        return rewrite(disk, meta, std::move(plan));
      },
      std::move(done));
}

void Image::change_backing(std::unique_ptr<Node> backing, std::string file, std::string format, Done done) {
  auto shared = std::make_shared<std::unique_ptr<Node>>(std::move(backing));
  exclusively(
      [this, file, format](Metadata& meta) -> Status {
        Header header = meta.header;
        header.backing_file = file;
        header.backing_format = format;
        const std::vector<std::uint8_t> start = HUSK_TRY(serialize_header(header));
        Disk disk(context_, *file_, true);
        HUSK_TRY(disk.write(0, start));
        HUSK_TRY(disk.flush());
        meta.header = std::move(header);
        return {};
      },
      [this, shared, done = std::move(done)](Status result) mutable {
        if (result) backing_ = std::move(*shared);
        done(std::move(result));
      });
}

void Image::make_empty(Done done) {
  exclusively(
      [this](Metadata& meta) -> Status {
        Disk disk(context_, *file_, true);
        Plan plan{.header = meta.header};
        plan.l1.resize(meta.l1.size());
        for (const Snapshot& s : meta.snapshots) plan.snapshots.push_back({s, {}, false});
        return rewrite(disk, meta, std::move(plan));
      },
      std::move(done));
}

void Image::resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) {
  if (options_.read_only) return done(EROFS);
  const std::uint64_t before = meta_.header.size;
  if (size > INT64_MAX || meta_.header.l1_needed(size) * 8 > kMostL1Bytes) return done(EFBIG);
  auto shared = std::make_shared<core::BlockCompletion>(std::move(done));
  auto error = std::make_shared<int>(0);
  const auto change = [this, size, error](Metadata& meta) -> Status {
    Disk disk(context_, *file_, true);
    Plan plan{.header = meta.header, .l1 = meta.l1};
    const std::uint64_t old = meta.header.size;
    plan.header.size = size;
    plan.l1.resize(std::max<std::uint64_t>(plan.header.l1_needed(size), 1));
    for (const Snapshot& s : meta.snapshots) plan.snapshots.push_back({s, {}, false});
    if (size < old) {
      const std::uint64_t reach = meta.header.l2_reach(), cluster = meta.header.cluster_size();
      const std::uint64_t step = meta.header.l2_entry_bytes();
      // Of the last L2 table only what lies below the new end.
      plan.edit = [=](std::uint64_t index, std::span<std::uint8_t> table) {
        if (index != size / reach) return false;
        const std::uint64_t keep = (size % reach + cluster - 1) / cluster * step;
        const bool changes =
            std::any_of(table.begin() + static_cast<std::ptrdiff_t>(keep), table.end(), [](auto b) { return b != 0; });
        std::fill(table.begin() + static_cast<std::ptrdiff_t>(keep), table.end(), std::uint8_t{0});
        return changes;
      };
    }
    return rewrite(disk, meta, std::move(plan));
  };
  const auto grown = [this, size, before, preallocation, shared](Status result) {
    if (!result) {
      context_.log().error("{}", result.error().text());
      return (*shared)(EIO);
    }
    const auto allocated = [this, size, before, preallocation, shared](int failed) {
      if (failed != 0 || preallocation == Preallocation::off || size <= before) return (*shared)(failed);
      preallocate(before, size, [this, preallocation, shared](int result_of) {
        if (result_of != 0 || external_) return (*shared)(result_of);
        // New clusters lie at the file's end; the file reaches as far, with its space reserved if that is wanted.
        const std::uint64_t end = next_cluster_ << cluster_bits_;
        if (end <= file_->info().size || !file_->growable()) return (*shared)(0);
        file_->resize_to(end, preallocation == Preallocation::metadata ? Preallocation::off : preallocation,
                         [shared](int resized) { (*shared)(resized); });
      });
    };
    if (!external_) return allocated(0);
    external_->resize_to(size, preallocation == Preallocation::metadata ? Preallocation::off : preallocation,
                         allocated);
  };
  // What the last cluster holds beyond the end must not come to light when the disk grows over it; nor what a longer
  // backing file has there.
  std::uint64_t stop = align_up(before, cluster_);
  if (backing_) stop = std::max(stop, backing_->info().size);
  stop = std::min(stop, size);
  if (stop > before) {
    exclusively(change, [this, before, stop, grown, shared](Status result) mutable {
      if (!result) return grown(std::move(result));
      submit({.op = core::BlockOp::write_zeroes,
              .flags = 0,
              .offset = before,
              .length = stop - before,
              .spans = {},
              .completion = [grown](int failed) mutable {
                if (failed != 0)
                  grown(fail_errno(failed, "cannot clear the old end of the disk"));
                else
                  grown({});
              }});
    });
    return;
  }
  exclusively(change, grown);
}

}  // namespace husk::block::qcow2
