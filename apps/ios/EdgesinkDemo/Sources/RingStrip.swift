import EdgesinkCore
import SwiftUI

/// The ring as it is: pinned tokens, the window, what was forgotten; below it speed, memory and heat.
struct RingStrip: View {
    let gauges: Gauges

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            if let status = gauges.status {
                bar(status)
                Text(
                    "\(status.sinksFilled) pinned · \(status.windowFilled) of \(status.ring.window) in the window · "
                        + "\(status.forgotten) forgotten · state \(size(status.stateBytes)), constant")
            }
            Text(
                "\(speed) · first token \(seconds) · memory \(size(gauges.footprintBytes)), "
                    + "\(size(gauges.headroomBytes)) left · \(gauges.thermal.rawValue)")
        }
        .font(.caption2)
        .monospacedDigit()
        .padding(.horizontal)
        .padding(.vertical, 6)
        .frame(maxWidth: .infinity, alignment: .leading)
        .background(.bar)
    }

    private func bar(_ status: StreamStatus) -> some View {
        GeometryReader { place in
            let token = place.size.width / CGFloat(status.ring.capacity)
            HStack(spacing: 0) {
                Color.orange.frame(width: token * CGFloat(status.sinksFilled))
                Color.accentColor.frame(width: token * CGFloat(status.windowFilled))
                Color.secondary.opacity(0.2)
            }
            .clipShape(.capsule)
        }
        .frame(height: 8)
        .accessibilityLabel("Tokens remembered")
    }

    private var speed: String {
        gauges.meter.tokensPerSecond.map { "\($0.formatted(.number.precision(.fractionLength(1)))) tokens/s" } ?? "–"
    }

    private var seconds: String {
        gauges.meter.firstTokenSeconds.map { "\($0.formatted(.number.precision(.fractionLength(2)))) s" } ?? "–"
    }

    private func size(_ bytes: Int?) -> String {
        bytes.map { Int64($0).formatted(.byteCount(style: .memory)) } ?? "–"
    }
}
