#include "trainers/output_folder.h"

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

ExitCode exit_code_of(const fs::path& folder, bool force) {
  try {
    check_output_folder(folder, force, {});
    return ExitCode::kDone;
  } catch (const Error& error) {
    return error.exit_code();
  }
}

TEST_CASE("an absent or empty output folder is fine", "[files]") {
  const TempFolder folder;
  CHECK(exit_code_of(folder.path(), false) == ExitCode::kDone);
  CHECK(exit_code_of(folder / "absent", false) == ExitCode::kDone);
}

TEST_CASE("a full output folder is refused without force", "[files]") {
  const TempFolder folder;
  folder.write("config.json", "{\"regroup\": {}}");
  CHECK(exit_code_of(folder.path(), false) == ExitCode::kBadRequest);
  CHECK_THROWS_WITH(check_output_folder(folder.path(), false, {}),
                    Contains("not empty") && Contains("--force"));
}

TEST_CASE("force replaces a model folder and a run folder of Regroup", "[files]") {
  const TempFolder model;
  model.write("config.json", "{\"regroup\": {\"method\": \"mean\"}}");
  CHECK(exit_code_of(model.path(), true) == ExitCode::kDone);
  const TempFolder run;
  run.write("config.ini", "");
  run.write("metrics.jsonl", "");
  CHECK(exit_code_of(run.path(), true) == ExitCode::kDone);
  const TempFolder interrupted_run;
  interrupted_run.write("config.ini", "");
  fs::create_directory(interrupted_run / "checkpoints");
  CHECK(exit_code_of(interrupted_run.path(), true) == ExitCode::kDone);
}

TEST_CASE("force does not replace what Regroup did not write", "[files]") {
  const std::string config =
      GENERATE("{\"model_type\": \"llama\"}", "{broken", "[1]", "{\"regroup\": null}",
               // as transformers saves a model that it loaded from our folder
               "{\"regroup\": {}, \"transformers_version\": \"5.0.0\"}");
  const TempFolder folder;
  folder.write("config.json", config);
  CHECK_THROWS_WITH(check_output_folder(folder.path(), true, {}),
                    Contains("not written by Regroup"));
  const TempFolder settings;
  settings.write("config.ini", "");
  CHECK(exit_code_of(settings.path(), true) == ExitCode::kBadRequest);
}

TEST_CASE("force does not replace a folder that holds an input of the job", "[files]") {
  const TempFolder folder;
  folder.write("config.ini", "");
  folder.write("metrics.jsonl", "");
  fs::create_directory(folder / "final");
  fs::create_directory_symlink(folder.path(), folder / "linked");
  const auto input = folder / GENERATE("", "final", "linked/final", "final/../final/");
  CHECK_THROWS_WITH(check_output_folder(folder.path(), true, {"", input}),
                    Contains("which this job reads"));
  const fs::path beside = folder.path().string() + "-2";
  check_output_folder(folder.path(), true, {"", beside, folder.path().parent_path()});
}

TEST_CASE("an output folder that is a file is refused with and without force", "[files]") {
  const TempFolder folder;
  const auto file = folder.write("f", "x");
  CHECK(exit_code_of(file, true) == ExitCode::kBadRequest);
  CHECK_THROWS_WITH(check_output_folder(file, false, {}), Contains("is a file"));
}

}  // namespace
}  // namespace regroup
