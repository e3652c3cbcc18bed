// husk: what is told of translated code: dumps for people, a map for perf
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "cpu/code_observer.h"

namespace husk::monitor {

/// The name of a guest address, or "".
using NameOf = std::function<std::string(std::uint64_t)>;

/// Guest code as it is translated (QEMU's -d in_asm) and the host code made of it (out_asm), as text. Thread-safe.
class CodeLog final : public cpu::CodeObserver {
 public:
  struct Deps {
    std::FILE* out;  ///< stays open as long as this object
    bool guest_code = false;
    bool host_code = false;
    NameOf name_of = {};
  };
  explicit CodeLog(Deps deps) : deps_(std::move(deps)) {}
  ~CodeLog() override { std::fflush(deps_.out); }
  void translated(const cpu::TranslatedCode& code) override;
  void shared_code(unsigned, const cpu::HostCode&) override {}

 private:
  Deps deps_;
  std::mutex mutex_;
};

/// The file in which perf looks for names of code that no file holds (perf-PID.map;
/// tools/perf/Documentation/jit-interface.txt of Linux): a line each with start and size, both hexadecimal, and a name.
/// When a code cache is emptied its lines stay: for perf the last one counts. Thread-safe.
class PerfMap final : public cpu::CodeObserver {
 public:
  /// `path` is made anew; fails if something is there that cannot be removed.
  static Result<std::unique_ptr<PerfMap>> create(const std::string& path, NameOf name_of);
  /// Where perf looks for the map of this process.
  static std::string path_of_this_process();
  ~PerfMap() override;
  void translated(const cpu::TranslatedCode& code) override;
  void shared_code(unsigned cpu, const cpu::HostCode& code) override;

 private:
  PerfMap(std::FILE* file, NameOf name_of) : file_(file), name_of_(std::move(name_of)) {}
  void line(const cpu::HostCode& code, const std::string& name);
  std::FILE* file_;
  NameOf name_of_;
  std::mutex mutex_;
};

/// Tells several of everything.
class CodeObservers final : public cpu::CodeObserver {
 public:
  void add(std::unique_ptr<cpu::CodeObserver> observer) { all_.push_back(std::move(observer)); }
  bool empty() const { return all_.empty(); }
  void translated(const cpu::TranslatedCode& code) override {
    for (const auto& one : all_) one->translated(code);
  }
  void shared_code(unsigned cpu, const cpu::HostCode& code) override {
    for (const auto& one : all_) one->shared_code(cpu, code);
  }

 private:
  std::vector<std::unique_ptr<cpu::CodeObserver>> all_;
};

}  // namespace husk::monitor
