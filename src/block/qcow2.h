// husk: qcow2 images (versions 2 and 3) as block nodes
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "block/context.h"
#include "block/node.h"
#include "block/qcow2_cache.h"
#include "block/qcow2_format.h"

namespace husk::block::qcow2 {

struct ImageOptions {
  bool read_only = false;
  bool writethrough = false;                ///< every write commits the tables too before it completes
  bool discard = true;                      ///< give freed clusters back to the host
  std::uint64_t l2_cache = 8u << 20;        ///< bytes
  std::uint64_t refcount_cache = 2u << 20;  ///< bytes
  std::optional<bool> lazy_refcounts{};     ///< instead of what the image says
  /// Read-only, and whatever it says of itself: for `check` and `info`.
  bool for_inspection = false;
  /// The disk as it was in this snapshot (name or id); read-only.
  std::string snapshot{};
};

/// What an image at rest consists of besides its clusters.
struct Metadata {
  Header header;
  std::vector<std::uint64_t> l1;
  std::vector<std::uint64_t> refcount_table;
  std::vector<Snapshot> snapshots;
  std::uint64_t snapshot_table_bytes = 0;
};

/// One image. How it stays whole whatever happens (see commit() in qcow2_commit.cpp): tables change in memory only; a
/// commit writes first the refcounts that grew, waits for them and for the data to be stable, then the L2 and L1 tables
/// that refer to them; and refcounts shrink only after that. So on disk nothing ever refers to a cluster that is not
/// counted, or to data that is not there. What a crash can leave is clusters counted that nobody refers to (leaks).
class Image final : public Node, public core::BlockSnapshotting {
 public:
  /// `header` was read from `file`; `data_file` and `backing` are what it names (backing may be left out on purpose).
  /// Reads tables by Context::wait(). A dirty image that is to be written is repaired; a corrupt one is refused.
  static Result<std::unique_ptr<Image>> open(Context& context, std::unique_ptr<Node> file, Header header,
                                             std::unique_ptr<Node> data_file, std::unique_ptr<Node> backing,
                                             const ImageOptions& options);
  ~Image() override;

  const std::string& name() const override { return file_->name(); }
  std::string_view driver() const override { return "qcow2"; }
  core::BlockInfo info() const override;
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override;
  void begin_batch() override { file_->begin_batch(); }
  void end_batch() override { file_->end_batch(); }
  void set_resized(std::function<void()> resized) override { resized_ = std::move(resized); }
  void status(std::uint64_t offset, std::uint64_t length, StatusDone done) override;
  void resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) override;
  core::BlockSnapshotting* snapshotting() override { return this; }
  void create_snapshot(std::string name, Done done) override;
  void apply_snapshot(std::string name, Done done) override;
  void delete_snapshot(std::string name, Done done) override;
  Node* backing() override { return backing_.get(); }
  Node* child() override { return file_.get(); }
  Node* data_file() { return external_ ? external_.get() : nullptr; }
  void close(core::BlockCompletion done) override;

  const Header& header() const { return meta_.header; }
  const std::vector<Snapshot>& snapshots() const { return meta_.snapshots; }
  bool corrupt() const { return corrupt_; }

  /// Takes another backing and writes its name; null and "" for none. The content seen may change: the caller has made
  /// sure that it does not, or wants it to.
  void change_backing(std::unique_ptr<Node> backing, std::string file, std::string format, Done done);
  /// Makes the image empty: all of it comes from the backing again (after a commit into it).
  void make_empty(Done done);
  /// Gives clusters to all of a range that has none, with whatever content the file has there (zeroes if it is new).
  void preallocate(std::uint64_t start, std::uint64_t end, core::BlockCompletion done);
  /// The backing node for its new place in the graph; reads that need it then give zeroes.
  std::unique_ptr<Node> release_backing() { return std::move(backing_); }

 private:
  enum class Kind : std::uint8_t { unallocated, zero, normal, compressed, invalid };
  struct Run {
    Kind kind = Kind::unallocated;
    std::uint64_t length = 0;
    std::uint64_t host = 0;   ///< normal: where the first byte is
    std::uint64_t entry = 0;  ///< compressed
    bool owned = false;       ///< normal: refcount one, may be written in place
  };
  struct Entry {
    std::uint64_t word = 0, bitmap = 0;
  };
  struct Job;
  struct Hold;
  struct Piece;
  struct Growth;
  struct Scan;
  struct CommitRun;
  struct ZeroRange;
  using Continue = std::move_only_function<void(int error)>;

  Image(Context& context, std::unique_ptr<Node> file, std::unique_ptr<Node> data_file, std::unique_ptr<Node> backing,
        const ImageOptions& options);
  Status load(Header header);

  // qcow2.cpp: requests
  void begin(core::BlockRequest request);
  void advance(Job& job);
  bool step(Job& job);
  bool step_read(Job& job);
  bool step_write(Job& job);
  bool step_write_compressed(Job& job);
  bool step_zero(Job& job);
  void piece_done(Piece& piece, int error);
  void job_failed(Job& job, int error);
  void complete(Job& job);
  void request_ended();
  void idle();
  bool wait_for_growth(Job& job, std::uint64_t start, std::uint64_t end);
  Piece& take_piece(Job& job, std::uint64_t host, std::uint64_t length);
  void send_piece(Piece& piece, Node& node, core::BlockOp op, std::uint64_t offset, std::uint64_t guest,
                  std::uint64_t length);
  void read_compressed(Job& job, std::uint64_t entry, std::uint64_t guest, std::uint64_t length);
  void read_backing(Job& job, std::uint64_t guest, std::uint64_t length);
  Node& data_node() { return external_ ? *external_ : *file_; }

  // qcow2_map.cpp: tables
  std::uint64_t l2_slice_offset(std::uint64_t l2_table, std::uint64_t guest) const;
  std::uint64_t slice_end(std::uint64_t guest) const;
  Entry load_entry(const Slice& slice, std::uint64_t guest) const;
  void store_entry(Slice& slice, std::uint64_t guest, Entry entry);
  Run unit_at(Entry entry, std::uint64_t guest) const;
  Run look(const Slice* slice, std::uint64_t guest, std::uint64_t most) const;
  bool has_host(Entry entry) const;
  void free_entry(Entry entry);
  /// Calls back with the L2 slice for `guest`, pinned, or null where there is no L2 table.
  void find_slice(std::uint64_t guest, TableCache::Got got);
  /// The same, for changing: makes the L2 table or a copy of its own of one that is shared.
  void own_slice(std::uint64_t guest, TableCache::Got got);
  void make_l2_table(std::uint64_t index, Continue done);

  // qcow2_write.cpp: writes that need space
  void start_growth(Job& job, Slice& slice, std::uint64_t guest, std::uint64_t length);
  void growth_placed(Growth& growth, int error, std::uint64_t host, std::uint64_t clusters);
  void growth_read(Growth& growth, bool tail);
  void growth_write(Growth& growth);
  void growth_link(Growth& growth, int error);
  void end_growth(Growth& growth, int error);
  void change_zero_range(Job& job, Slice& slice, std::uint64_t start, std::uint64_t end);
  Entry zeroed(const Job& job, Entry entry, std::uint64_t guest, std::uint64_t start, std::uint64_t end);
  void place_compressed(Growth& growth);

  // qcow2_allocate.cpp
  using Allocated = std::move_only_function<void(int error, std::uint64_t host, std::uint64_t clusters)>;
  void lock_allocator(std::move_only_function<void()> run);
  void unlock_allocator();
  void serve_allocator();
  /// 1 to `clusters` adjacent clusters, counted.
  void allocate(std::uint64_t clusters, Allocated done);
  void allocate_bytes(std::uint64_t bytes, Allocated done);
  void scan(Scan& scan);
  void end_scan(Scan& scan, int error);
  void add_refcount_block(Scan& scan, std::uint64_t block, std::uint64_t cluster);
  void grow_refcount_table(Scan& scan, std::uint64_t cluster);
  void free_later(std::uint64_t offset, std::uint64_t length);
  void apply_frees(std::vector<std::pair<std::uint64_t, std::uint64_t>> frees, Continue done);
  struct Freeing;
  void free_next(Freeing& freeing);
  bool overlaps_metadata(std::uint64_t cluster) const;
  void mark_corrupt(const std::string& why);

  // qcow2_commit.cpp
  void commit(core::BlockCompletion done);
  void start_commit();
  void commit_stage(CommitRun& run);
  void end_commit(CommitRun& run);
  bool needs_commit() const;
  bool admit(Job& job);

  // qcow2_exclusive.cpp: surgery with nothing else under way
  void exclusively(std::move_only_function<Status(Metadata&)> surgery, Done done);
  void try_exclusive();
  void settle(Continue done);
  void adopt(Metadata meta);

  Context& context_;
  std::unique_ptr<Node> file_, external_, backing_;
  ImageOptions options_;
  Metadata meta_;
  std::uint64_t cluster_ = 0;     ///< bytes
  std::uint64_t subcluster_ = 0;  ///< bytes; a cluster's without extended L2 entries
  unsigned cluster_bits_ = 0;
  unsigned entry_bytes_ = 8;
  std::uint64_t slice_reach_ = 0;  ///< guest bytes mapped by a slice
  bool corrupt_ = false;
  bool closed_ = false;
  std::optional<TableCache> l2_cache_, refcount_cache_;
  std::function<void()> resized_;

  std::vector<std::uint64_t> metadata_clusters_;       ///< sorted: L2 tables and refcount blocks at opening
  std::vector<bool> l1_dirty_, refcount_table_dirty_;  ///< a bit for 512 bytes
  bool any_l1_dirty_ = false, any_refcount_table_dirty_ = false;
  bool lazy_ = false, marked_dirty_ = false;

  unsigned requests_ = 0;
  std::vector<std::move_only_function<void()>> drained_;
  std::deque<core::BlockRequest> held_;
  std::list<Growth*> growths_;
  std::list<Piece*> pieces_;  ///< data transfers under way in host clusters
  std::vector<std::unique_ptr<Piece>> all_pieces_;
  std::vector<Piece*> free_pieces_;

  bool allocator_locked_ = false;
  bool allocator_serving_ = false;
  std::deque<std::move_only_function<void()>> allocator_queue_;
  std::uint64_t next_cluster_ = 0;            ///< nothing is free below it
  std::uint64_t virgin_ = ~std::uint64_t{0};  ///< the file has never been written from here on, and reads as zeroes
  std::uint64_t compressed_end_ = 0;          ///< where the last compressed cluster ended, if its host cluster has room
  std::vector<std::pair<std::uint64_t, std::uint64_t>> frees_;  ///< offset, length; after the next commit

  std::unique_ptr<CommitRun> commit_;
  std::vector<core::BlockCompletion> next_commit_;
  std::vector<Job*> stalled_;

  std::uint64_t decompressed_entry_ = 0;
  std::vector<std::uint8_t> decompressed_;

  struct Exclusive {
    std::move_only_function<Status(Metadata&)> surgery;
    Done done;
  };
  std::deque<Exclusive> exclusives_;
  bool exclusive_ = false;
};

}  // namespace husk::block::qcow2
