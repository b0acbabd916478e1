#!/usr/bin/env bash
# Every benchmark of speed on one CUDA device, results in a folder. Needs the package installed and nothing else:
#
#     benchmarks/run_on_gpu.sh [FOLDER]            # outputs/gpu by default
#     PEAK_TFLOPS=989 BATCH=16 benchmarks/run_on_gpu.sh
#
# PEAK_TFLOPS is the card's dense bfloat16 peak (989 for H100 and H200 SXM). DEVICE=cpu DTYPE=fp32 PRESET=tiny tries the
# script without a GPU.
set -euo pipefail
cd "$(dirname "$0")"

folder=$(realpath -m "${1:-../outputs/gpu}")
device=${DEVICE:-cuda} dtype=${DTYPE:-bf16} preset=${PRESET:-base} batch=${BATCH:-16} rounds=${ROUNDS:-20}
python=${PYTHON:-python}
common=(--device "$device" --dtype "$dtype" --preset "$preset" --rounds "$rounds")
frames=(${FRAMES:-8 16 32 64 128 256 512 1024})
compiled=(${COMPILED---compiled})
mkdir -p "$folder"

run() {  # name of the result, script, arguments
    echo "== $1"
    "$python" "$2" "${common[@]}" --save "$folder/$1.json" "${@:3}" | tee "$folder/$1.txt" | grep -v '^{'
}

run video_tower video_tower.py --batch "$batch" --peak-tflops "${PEAK_TFLOPS:-989}" "${compiled[@]}"
# the released code trains in float16, eager: the plain port in that type is the other side of the comparison
common[3]=${PLAIN_DTYPE:-fp16}
run plain_fp16 video_tower.py --batch "$batch" --models plain --modes training
common[3]=$dtype
run training_step training_step.py --batch "$batch"
run text_tower text_tower.py --batch "$batch" --training
run frame_growth frame_growth.py --frames "${frames[@]}" --warm --plot "$folder/frame_growth.png"
run encoding encoding.py --batch "$batch" --videos "${VIDEOS:-64}"
