// husk: `husk img`: works on disk images, with qemu-img's commands and options
#include "app/img/img.h"

#include <algorithm>
#include <cerrno>

#include "app/img/img_access.h"

namespace husk::app {
namespace {

using namespace img;

struct CommandEntry {
  const char* name;
  Command run;
  Syntax syntax;
  const char* usage;
  const char* purpose;
};

std::vector<CommandEntry> commands() {
  return {
      {"bench",
       command_bench,
       {"hnqwU",
        "cdfiotsS",
        {"help", "flush-interval=", "no-drain", "pattern=", "image-opts", "quiet:q", "native:n", "force-share:U"},
        1,
        1},
       "[-q] [-w] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP] [-o OFFSET] [-f FORMAT] [-t CACHE] [--flush-interval N] "
       "[--no-drain] [--pattern BYTE] FILE",
       "measures requests"},
      {"check",
       command_check,
       {"hqU", "frT", {"help", "output=", "repair:r", "force-share:U", "format:f", "image-opts"}, 1, 1},
       "[-q] [-f FORMAT] [-r leaks|all] [-T CACHE] [-U] [--output human|json] FILE",
       "looks for damage and mends it"},
      {"commit",
       command_commit,
       {"hqdp", "bftr", {"help", "image-opts"}, 1, 1},
       "[-q] [-p] [-d] [-f FORMAT] [-t CACHE] [-b BASE] FILE",
       "writes an image's changes into its backing file"},
      {"compare",
       command_compare,
       {"hpqsU", "fFT", {"help", "image-opts", "force-share:U"}, 2, 2},
       "[-q] [-p] [-s] [-f FORMAT] [-F FORMAT] [-T CACHE] [-U] FILE FILE",
       "tells whether two images hold the same"},
      {"convert",
       command_convert,
       {"hcnpqUW",
        "BfFlmoOSTtr",
        {"help", "image-opts", "target-image-opts", "target-is-zero", "salvage", "force-share:U"},
        2,
        1000},
       "[-c] [-n] [-p] [-q] [-U] [-W] [-f FORMAT] [-O FORMAT] [-o OPTIONS] [-B BACKING [-F FORMAT]] [-l SNAPSHOT] [-S "
       "SIZE] [-m N] "
       "[-t CACHE] [-T CACHE] [--target-is-zero] [--salvage] FILE... TARGET",
       "copies into another image"},
      {"create",
       command_create,
       {"hqu", "fFbo", {"help"}, 1, 2},
       "[-q] [-u] [-f FORMAT] [-b BACKING -F FORMAT] [-o OPTIONS] FILE [SIZE]",
       "makes an empty image"},
      {"dd",
       command_dd,
       {"hU", "fO", {"help", "image-opts", "force-share:U"}, 0, 100},
       "[-f FORMAT] [-O FORMAT] [-U] [bs=SIZE] [count=N] [skip=N] if=FILE of=FILE",
       "copies a part into a new image"},
      {"info",
       command_info,
       {"hU", "ft", {"help", "output=", "backing-chain", "force-share:U", "format:f", "image-opts"}, 1, 1},
       "[-f FORMAT] [--backing-chain] [-U] [--output human|json] FILE",
       "tells what an image is"},
      {"map",
       command_map,
       {"hU",
        "fsl",
        {"help", "output=", "start-offset=", "max-length=", "force-share:U", "format:f", "image-opts"},
        1,
        1},
       "[-f FORMAT] [-s OFFSET] [-l LENGTH] [-U] [--output human|json] FILE",
       "tells where an image's data is"},
      {"measure",
       command_measure,
       {"hU", "fOol", {"help", "output=", "size=", "force-share:U", "image-opts"}, 0, 1},
       "[-O FORMAT] [-o OPTIONS] [--output human|json] (--size SIZE | [-f FORMAT] [-l SNAPSHOT] [-U] FILE)",
       "tells how large a converted image gets"},
      {"rebase",
       command_rebase,
       {"hqpuU", "bFftT", {"help", "force-share:U", "image-opts"}, 1, 1},
       "[-q] [-p] [-u] [-U] [-f FORMAT] [-t CACHE] [-T CACHE] -b BACKING [-F FORMAT] FILE",
       "changes the backing file"},
      {"resize",
       command_resize,
       {"hq", "f", {"help", "preallocation=", "shrink", "image-opts"}, 2, 2},
       "[-q] [-f FORMAT] [--preallocation MODE] [--shrink] FILE [+|-]SIZE",
       "changes the disk's size"},
      {"snapshot",
       command_snapshot,
       {"hlqU", "acdf", {"help", "force-share:U", "image-opts"}, 1, 1},
       "[-q] [-U] [-f FORMAT] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILE",
       "lists, applies, creates or deletes internal snapshots"},
  };
}

std::string help_text() {
  std::string text =
      "Usage: husk img COMMAND [OPTION...] ...\n"
      "\n"
      "Works on disk images (raw, qcow2, NBD exports). Commands, options and output are qemu-img's.\n"
      "\n";
  for (const CommandEntry& command : commands()) text += fmt::format("  {:10} {}\n", command.name, command.purpose);
  text += "\n'husk img COMMAND --help' shows a command's options; man husk-img has it all.\n";
  return text;
}

}  // namespace

int run_img(std::span<const std::string> arguments, std::FILE* out, std::FILE* err) {
  const auto complain = [&](const std::string& command, const Error& error) {
    const std::string text = fmt::format("husk img{}{}: {}\n", command.empty() ? "" : " ", command, error.text());
    std::fwrite(text.data(), 1, text.size(), err);
    return 1;
  };
  const auto put = [&](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), out);
    return std::fflush(out) == 0 ? 0 : complain("", fail_errno(errno, "cannot write the output").error());
  };
  if (arguments.empty()) {
    const std::string text = help_text();
    std::fwrite(text.data(), 1, text.size(), err);
    return 1;
  }
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h" || name == "help") return put(help_text());
  const auto all = commands();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const CommandEntry& entry) { return entry.name == name; });
  if (found == all.end())
    return complain("", {fmt::format("there is no command '{}'", name), "'husk img --help' lists those there are"});
  const auto parsed = parse_arguments(arguments.subspan(1), found->syntax);
  if (parsed && (parsed->has("help") || parsed->has("h")))
    return put(fmt::format("Usage: husk img {} {}\n\n{}: {}. man husk-img describes the options.\n", name, found->usage,
                           name, found->purpose));
  // qemu-img's compare has its own status for what keeps it from comparing.
  const int failed = name == "compare" ? 2 : 1;
  if (!parsed) {
    complain(name, parsed.error());
    return failed;
  }
  auto session = Session::create(out, err);
  if (!session) return complain(name, session.error());
  (*session)->quiet = parsed->has("q");
  (*session)->show_progress = parsed->has("p");
  const auto status = found->run(**session, *parsed);
  if (!status) {
    complain(name, status.error());
    return failed;
  }
  if (std::fflush(out) != 0) return complain(name, fail_errno(errno, "cannot write the output").error());
  return *status;
}

}  // namespace husk::app
