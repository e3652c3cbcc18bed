// husk: the end of a file server that a device is connected to, whatever protocol the guest speaks
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "core/share_backend.h"
#include "mem/lock_domain.h"

namespace husk::hostfs {

/// Not errors: how a request goes on.
inline constexpr int kLater = -1;   ///< it may take long: once more, where that does no harm
inline constexpr int kLocked = -2;  ///< it waits for a lock

/// Memory that is kept from one request to the next.
struct Scratch {
  std::vector<std::uint8_t> in, reply;
  /// Of the request that one of another protocol is translated into.
  std::vector<std::uint8_t> inner_in, inner_reply;
};

/// Requests in, answers out, any thread; several at a time.
class Protocol {
 public:
  virtual ~Protocol() = default;

  enum class Effect : std::uint8_t {
    none,
    frees_locks,  ///< others may wait for what it lets go
    cancels,      ///< it is about another request
  };
  struct Identity {
    std::uint64_t id = 0;  ///< the guest's number of the request
    Effect effect = Effect::none;
    std::uint64_t about = 0;  ///< the number of the request that this one cancels
  };
  virtual Identity identify(const core::ShareRequest& request) const = 0;

  struct Answer {
    int outcome = 0;  ///< 0: written; kLater; kLocked
    std::uint64_t written = 0;
  };
  virtual Answer handle(const core::ShareRequest& request, Scratch& scratch, bool may_block) = 0;
  /// Writes an answer that is an error only; returns its length.
  virtual std::uint64_t refuse(const core::ShareRequest& request, std::uint64_t id, int error) const = 0;
  /// The same for a request that the guest has cancelled.
  virtual std::uint64_t refuse_cancelled(const core::ShareRequest& request, std::uint64_t id) const = 0;
  /// True if the answer to a cancellation tells the guest that nothing more will come of what it cancelled.
  virtual bool cancellation_is_last() const = 0;

  virtual void reset() = 0;
  virtual std::vector<std::uint8_t> save() const = 0;
  virtual Status load(std::span<const std::uint8_t> state) = 0;
};

/// Does quick requests at once, those that may take long on at most so many threads.
std::unique_ptr<core::ShareBackend> make_port(std::shared_ptr<Protocol> protocol, mem::LockDomain& domain,
                                              unsigned threads);

// Lists of spans, as requests come in.

/// Copies from `offset` on into all of `into`, as far as there is anything; returns how many bytes that was.
std::size_t gather(std::span<const core::ShareSpan> from, std::uint64_t offset, std::span<std::uint8_t> into);
/// Copies all of `from` to `offset` on, as far as there is room.
void scatter(std::span<const core::ShareSpan> into, std::uint64_t offset, std::span<const std::uint8_t> from);
std::uint64_t total(std::span<const core::ShareSpan> spans);

}  // namespace husk::hostfs
