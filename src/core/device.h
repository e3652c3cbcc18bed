// husk: the contract of every device
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/log.h"
#include "base/result.h"
#include "state/state.h"

namespace husk::core {

enum class ResetKind {
  power_on,  ///< as after applying power: battery-backed state is kept, all else starts anew
  warm,      ///< platform reset (port CF9, keyboard controller, triple fault)
};

/// A device gets everything it needs in its constructor (a struct Deps) and is fully valid and reset after it.
/// Every call is made with its lock domain held.
class Device {
 public:
  virtual ~Device() = default;
  /// Name of its section in a saved machine, unique in the machine: "pit", "uart0".
  virtual std::string_view state_id() const = 0;
  virtual void reset(ResetKind kind) = 0;
  /// The machine begins to run: backends may be read.
  virtual void start() {}
  /// The machine stops: finish what is in flight, then call `done` (perhaps before returning, perhaps later).
  virtual void quiesce(std::function<void()> done) { done(); }

  virtual void save(state::StateWriter& writer) const = 0;
  /// All or nothing: on an error the device is as it was.
  virtual Status load(state::StateReader& reader) = 0;
  virtual void inspect(state::Inspector& inspector) const = 0;
};

/// A Device whose whole migratable state is one declared struct, which makes save, load and inspection automatic.
template <state::Declared State>
class StatefulDevice : public Device {
 public:
  void save(state::StateWriter& writer) const final {
    const_cast<StatefulDevice*>(this)->before_save();
    writer.record(state_);
  }
  Status load(state::StateReader& reader) final {
    State incoming{};
    HUSK_TRY(reader.record(incoming));
    HUSK_TRY(validate(incoming));
    state_ = std::move(incoming);
    after_load();
    return {};
  }
  void inspect(state::Inspector& inspector) const final {
    const_cast<StatefulDevice*>(this)->before_save();
    inspector.record(state_);
  }

 protected:
  /// Brings fields that are kept elsewhere while running (a timer's deadline) into state_. Must not change behaviour.
  virtual void before_save() {}
  /// Refuses combinations of values that the ranges of single fields cannot express.
  virtual Status validate(const State&) const { return {}; }
  /// Recomputes line levels (InterruptLine::restore_level), timers and caches from state_.
  virtual void after_load() {}

  State state_{};
};

}  // namespace husk::core
