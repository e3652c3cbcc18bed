// husk: main
#include <string>
#include <vector>

#include "app/commands.h"

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + (count > 0 ? 1 : 0), arguments + count);
  return husk::app::run_command_line(count > 0 ? arguments[0] : "husk", words);
}
