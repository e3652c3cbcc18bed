// husk: the A20 line, which port 92 and the keyboard controller drive together
#pragma once

#include <vector>

#include "core/backends.h"

namespace husk::devices {

/// A20M# of a PC: address bit 20 passes if any of the inputs lets it (ICH9 data sheet, 5.13.1.1: the chip set ORs
/// A20GATE of the keyboard controller with ALT_A20_GATE of port 92). Has no state of its own: each device drives its
/// input again after a load. With no inputs the line is left alone. Must outlive the inputs.
class A20Gate {
 public:
  explicit A20Gate(core::MachineControl& control) : control_(control) {}
  A20Gate(const A20Gate&) = delete;
  A20Gate& operator=(const A20Gate&) = delete;

  /// One driver of the gate; set() with the present value costs nothing.
  class Input {
   public:
    void set(bool enabled) {
      gate_->inputs_[index_] = enabled;
      gate_->drive();
    }

   private:
    friend class A20Gate;
    Input(A20Gate& gate, std::size_t index) : gate_(&gate), index_(index) {}
    A20Gate* gate_;
    std::size_t index_;
  };
  /// A new input, disabled until set; the line changes only at a set().
  Input input() {
    inputs_.push_back(false);
    return {*this, inputs_.size() - 1};
  }
  bool enabled() const { return enabled_; }

 private:
  void drive() {
    bool any = false;
    for (const bool input : inputs_) any = any || input;
    if (any == enabled_) return;
    enabled_ = any;
    control_.set_a20(any);
  }
  core::MachineControl& control_;
  std::vector<bool> inputs_;
  bool enabled_ = true;  // as CPUs see it before anybody drives the line
};

}  // namespace husk::devices
